import pytest
import torch

from classifier.augment import RandomErase, RandomFlip, RandomOrientation, RandomShift

AUGMENTATIONS = [RandomFlip(), RandomOrientation(), RandomShift(max_shift=3), RandomErase()]


def random_images(number, channels=3, height=12, width=9, dtype=torch.uint8):
    return torch.randint(256, (number, channels, height, width)).to(dtype)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_shape_dtype_and_range_stay(augmentation, dtype):
    images = random_images(32, dtype=dtype)

    augmented = augmentation(images)

    assert augmented.shape == images.shape
    assert augmented.dtype == dtype
    assert 0 <= augmented.min() <= augmented.max() <= 255


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
def test_the_batch_that_came_in_is_not_changed(augmentation):
    images = random_images(32)
    before = images.clone()

    augmented = augmentation(images)

    assert torch.equal(images, before)
    assert not torch.equal(augmented, before)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
def test_one_seed_gives_one_result(augmentation):
    images = random_images(32)

    first, second, third = (torch.manual_seed(seed) and augmentation(images) for seed in (1, 1, 2))

    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
def test_images_that_are_not_contiguous_are_augmented_alike(augmentation):
    images = random_images(32)
    channels_last = images.contiguous(memory_format=torch.channels_last)

    torch.manual_seed(1)
    expected = augmentation(images)
    torch.manual_seed(1)

    assert torch.equal(augmentation(channels_last), expected)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=repr)
def test_an_empty_batch_stays_empty(augmentation):
    assert augmentation(random_images(0)).shape == (0, 3, 12, 9)


def test_each_image_is_either_mirrored_left_to_right_or_unchanged():
    images = random_images(400)
    mirrored = torch.stack([torch.stack([row.flip(-1) for row in image]) for image in images])

    flipped = RandomFlip(probability=0.25)(images)

    changed = [torch.equal(one, other) for one, other in zip(flipped, mirrored, strict=True)]
    kept = [torch.equal(one, other) for one, other in zip(flipped, images, strict=True)]
    assert all(one != other for one, other in zip(changed, kept, strict=True))
    assert 70 <= sum(changed) <= 130  # 400 draws at 0.25: 100, standard deviation 9


def test_flip_of_probability_one_mirrors_all_and_zero_none():
    images = random_images(50)

    assert torch.equal(RandomFlip(probability=1)(images), images.flip(3))
    assert torch.equal(RandomFlip(probability=0)(images), images)


def test_a_square_image_has_each_of_eight_orientations_equally_often():
    image = random_images(1, height=5, width=5)
    turned = [image.rot90(turns, (2, 3)) for turns in range(4)]
    expected = torch.cat(turned + [one.flip(3) for one in turned])

    drawn = RandomOrientation()(image.expand(800, -1, -1, -1))

    counts = [(drawn == one).flatten(1).all(1).sum().item() for one in expected]
    assert sum(counts) == 800
    assert all(65 <= count <= 135 for count in counts)  # 100, standard deviation 9


def test_an_image_that_is_not_square_keeps_its_shape_in_each_orientation():
    image = random_images(1)
    expected = torch.cat([image, image.flip(3), image.flip(2), image.flip(2, 3)])

    drawn = RandomOrientation()(image.expand(100, -1, -1, -1))

    assert torch.equal(torch.unique(drawn, dim=0), torch.unique(expected, dim=0))


def test_each_image_draws_its_own_shift():
    image = random_images(1)

    shifted = RandomShift(max_shift=3)(image.expand(64, -1, -1, -1))

    assert len(torch.unique(shifted, dim=0)) > 25  # of 7 x 7 possible shifts


def test_the_shifts_are_exactly_the_windows_of_the_mirrored_image():
    image = random_images(1, height=6, width=5)
    padded = torch.nn.functional.pad(image.float(), (2, 2, 2, 2), mode="reflect").byte()
    windows = torch.cat([padded[..., r : r + 6, c : c + 5] for r in range(5) for c in range(5)])

    shifted = RandomShift(max_shift=2)(image.expand(500, -1, -1, -1))

    assert torch.equal(torch.unique(shifted, dim=0), torch.unique(windows, dim=0))


def test_the_channels_of_an_image_shift_together():
    grey = random_images(32, channels=1)

    shifted = RandomShift(max_shift=3)(grey.expand(-1, 3, -1, -1))

    assert torch.equal(shifted[:, 0], shifted[:, 1])
    assert torch.equal(shifted[:, 0], shifted[:, 2])


def test_shift_of_zero_keeps_the_images():
    images = random_images(8)

    assert torch.equal(RandomShift(max_shift=0)(images), images)


def erased_rectangles(images, erased):
    """Height, width, top and left of the changed pixels of every image that has some."""
    for before, after in zip(images, erased, strict=True):
        changed = (before != after).any(0).nonzero()
        if len(changed):
            (top, left), (bottom, right) = changed.min(0).values, changed.max(0).values
            yield (bottom - top + 1).item(), (right - left + 1).item(), top.item(), left.item()


def test_erased_is_one_rectangle_of_one_colour_of_the_asked_size():
    images = torch.full((500, 3, 40, 50), 300.0)  # a value that no colour has

    erased = RandomErase(probability=1, min_area=0.1, max_area=0.2, max_aspect=2)(images)

    rectangles = list(erased_rectangles(images, erased))
    assert len(rectangles) == 500
    for image, (height, width, top, left) in zip(erased, rectangles, strict=True):
        assert 0.09 <= height * width / 2000 <= 0.22  # sides are rounded to whole pixels
        assert 0.45 <= height / width <= 2.2
        colour = image[:, top, left]
        inside = image[:, top : top + height, left : left + width]
        assert torch.equal(inside, colour[:, None, None].expand_as(inside))
        assert (image != 300).any(0).sum() == height * width


def test_each_image_draws_its_own_rectangle_and_colour_which_reach_every_edge():
    images = torch.full((500, 3, 16, 16), 300.0)

    erased = RandomErase(probability=1)(images)

    rectangles = list(erased_rectangles(images, erased))
    assert len(set(rectangles)) > 300
    assert {top for _, _, top, _ in rectangles} >= {0, 7}
    assert {top + height for height, _, top, _ in rectangles} >= {7, 16}
    assert {left for _, _, _, left in rectangles} >= {0, 7}
    assert {left + width for _, width, _, left in rectangles} >= {7, 16}
    colours = torch.stack([image.flatten(1).min(1).values for image in erased])
    assert len(torch.unique(colours, dim=0)) > 490
    assert len(torch.unique(colours)) > 200  # of 256 values


def test_the_asked_share_of_images_is_erased():
    images = torch.full((400, 3, 8, 8), 300.0)

    erased = RandomErase(probability=0.25)(images)

    assert 70 <= len(list(erased_rectangles(images, erased))) <= 130
    assert torch.equal(RandomErase(probability=0)(images), images)


def test_a_rectangle_longer_than_the_image_is_cut_to_it():
    images = torch.full((100, 1, 4, 100), 300.0)

    erased = RandomErase(probability=1, min_area=1, max_area=1, max_aspect=1)(images)

    rectangles = list(erased_rectangles(images, erased))
    assert {(height, width) for height, width, _, _ in rectangles} == {(4, 20)}


@pytest.mark.parametrize("augmentation", [RandomFlip, RandomErase])
@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_probability_outside_zero_to_one_is_refused(augmentation, probability):
    with pytest.raises(ValueError, match=f"between 0 and 1, not at {probability}"):
        augmentation(probability=probability)


def test_negative_shift_is_refused():
    with pytest.raises(ValueError, match="cannot be negative: -1"):
        RandomShift(max_shift=-1)


def test_shift_as_long_as_the_image_is_refused():
    with pytest.raises(ValueError, match=r"max_shift is 9 pixels.* only 12x9; choose at most 8"):
        RandomShift(max_shift=9)(random_images(2))


@pytest.mark.parametrize(("smallest", "largest"), [(0, 0.4), (0.5, 0.4), (0.1, 1.1), (-1, 0.4)])
def test_areas_that_are_no_shares_are_refused(smallest, largest):
    with pytest.raises(ValueError, match=f"min_area is {smallest} and max_area {largest}"):
        RandomErase(min_area=smallest, max_area=largest)


@pytest.mark.parametrize("aspect", [0.5, float("inf"), float("nan")])
def test_aspect_below_one_or_without_limit_is_refused(aspect):
    with pytest.raises(ValueError, match=f"max_aspect .*>= 1: {aspect}"):
        RandomErase(max_aspect=aspect)


def test_shifts_are_the_bits_of_earlier_versions_for_the_same_seed():
    images = torch.randint(256, (40, 3, 7, 9), dtype=torch.uint8)
    torch.manual_seed(4)
    down, right = torch.randint(-3, 4, (2, 40, 1))
    padded = torch.nn.functional.pad(images.float(), (3, 3, 3, 3), mode="reflect")
    expected = [
        one[:, 3 - y : 10 - y, 3 - x : 12 - x]
        for one, y, x in zip(padded, down.tolist(), right.tolist(), strict=True)
        for y, x in [(y[0], x[0])]
    ]

    torch.manual_seed(4)
    assert RandomShift(3)(images).float().equal(torch.stack(expected))
