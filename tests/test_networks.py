from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision import models

from classifier.networks import MNISTNet, ResNet9, SmallResNet, torchvision_model

IMAGES = torch.arange(2 * 3 * 64 * 64).remainder(251).view(2, 3, 64, 64) / 251


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def number_of_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def first_and_last_layer(network):
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return layers[0], layers[-1]


@pytest.fixture
def state_file(tmp_path):
    """A trained network's state dict as torchvision's own builder makes it, for 12 classes."""

    def save(name="shufflenet_v2_x0_5", **arguments):
        network = getattr(models, name)(num_classes=12, **arguments).eval()
        path = tmp_path / f"{name}.pth"
        torch.save(network.state_dict(), path)
        return network, str(path)

    return save


# --- our own networks ---


@pytest.mark.parametrize("network", [MNISTNet, ResNet9, SmallResNet])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (28, 28), (64, 40)])
def test_images_of_any_size_and_channels_get_one_logit_per_class(network, size):
    images = torch.rand(3, 2, *size)

    logits = network(num_classes=7, in_channels=2)(images)

    assert logits.shape == (3, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    "network",
    [MNISTNet(), ResNet9(in_channels=1, width=8), SmallResNet(in_channels=1, depth=8)],
)
def test_every_parameter_gets_a_gradient(network):
    network(torch.rand(4, 1, 28, 28)).square().sum().backward()

    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(
    "network",
    [MNISTNet(), ResNet9(in_channels=1, width=8), SmallResNet(in_channels=1, depth=8)],
)
def test_an_image_is_classified_alike_alone_and_in_a_batch(network):
    images = torch.rand(4, 1, 28, 28)
    network.eval()

    alone = torch.cat([network(image[None]) for image in images])

    torch.testing.assert_close(alone, network(images))


@pytest.mark.parametrize("network", [MNISTNet, ResNet9, SmallResNet])
def test_one_seed_gives_one_network(network):
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.flatten() for p in network().parameters()]))

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_mnist_net_learns_a_batch_by_heart():
    images, labels = torch.rand(16, 1, 12, 12), torch.arange(16) % 4
    network = MNISTNet(num_classes=4, width=8, dropout=0)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)

    for _ in range(40):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert loss < 0.1


def test_width_and_dropout_reach_the_layers():
    network = MNISTNet(width=5, dropout=0.3)

    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [5, 10, 20]
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.15, 0.3]


@pytest.mark.parametrize(  # table 6 of the paper, in millions: 0.27, 0.46, 0.66, 0.85, 1.7
    ("depth", "parameters"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_residual_networks_have_the_size_in_the_paper(depth, parameters):
    network = SmallResNet(depth=depth)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert number_of_parameters(network) == parameters


def test_residual_network_halves_the_image_twice():
    features = SmallResNet(width=4).features(torch.rand(1, 3, 32, 32))

    assert features.shape == (1, 16, 8, 8)


def test_shortcuts_carry_the_image_past_silenced_convolutions():
    network = SmallResNet(depth=8, width=2)
    for name, parameter in network.named_parameters():
        if "residual" in name:
            nn.init.zeros_(parameter)
    images = torch.rand(1, 3, 16, 16)

    features = network.eval().features(images)

    stem = network.features[:3](images)[:, :, ::4, ::4]  # two halvings
    assert torch.equal(features[:, 3:5], stem)  # 1 + 2 channels of zeros on each side
    assert features[:, [0, 1, 2, 5, 6, 7]].abs().sum() == 0


def test_resnet9_has_the_layers_and_parameters_of_its_source():
    network = ResNet9()

    shapes = [
        tuple(layer.weight.shape[:2])
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    assert shapes == [
        *((64, 3), (128, 64), (128, 128), (128, 128), (256, 128), (512, 256), (512, 512)),
        *((512, 512), (10, 512)),
    ]
    assert number_of_parameters(network) == 6_573_120
    assert network.features(torch.rand(1, 3, 32, 32)).shape == (1, 512, 4, 4)


@pytest.mark.parametrize(("depth", "nearest"), [(18, "14 and 20"), (21, "20 and 26"), (2, "8 and")])
def test_depth_between_two_residual_networks_is_refused(depth, nearest):
    with pytest.raises(ValueError, match=rf"not {depth}; the nearest are {nearest}"):
        SmallResNet(depth=depth)


@pytest.mark.parametrize("width", [0, 15])
def test_odd_width_is_refused(width):
    with pytest.raises(ValueError, match=f"even number of filters, at least 2: {width}"):
        SmallResNet(width=width)


# --- torchvision's networks ---


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {}),
        ("squeezenet1_1", {}),  # a convolution is its head
        ("mobilenet_v3_small", {}),
        ("MNASNet0_5", {}),
        ("regnet_y_400mf", {}),
        ("vit_b_32", {"image_size": 64}),
        ("googlenet", {}),  # its output is a tuple by default in training
    ],
)
def test_torchvision_networks_take_the_channels_and_give_the_classes(name, arguments):
    network = torchvision_model(name, num_classes=7, in_channels=5, **arguments)

    logits = network.train()(torch.rand(2, 5, 64, 64))

    assert logits.shape == (2, 7)


# Without memory ("meta") all take seconds; torchvision cannot build a RegNet that way.
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in models.list_models(models) if "regnet" not in n])
def test_every_torchvision_classifier_takes_the_channels_and_the_classes(name):
    with torch.device("meta"):
        network = torchvision_model(name, num_classes=7, in_channels=5)

    stem, head = first_and_last_layer(network)
    assert stem.weight.shape[1] == stem.in_channels == 5
    assert head.weight.shape[0] == 7


def test_a_network_from_scratch_is_the_builder_s_own():
    torch.manual_seed(1)
    expected = models.resnet18(num_classes=7).state_dict()
    torch.manual_seed(1)

    state = torchvision_model("resnet18", num_classes=7).state_dict()

    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("in_channels", [1, 6])
def test_responses_of_a_new_stem_spread_as_those_of_the_builder_s(in_channels):
    images = torch.randn(8, 6, 64, 64)

    old, _ = first_and_last_layer(models.resnet18())
    new, _ = first_and_last_layer(torchvision_model("resnet18", 10, in_channels))

    spread = new(images[:, :in_channels]).std().item()
    assert spread == pytest.approx(old(images[:, :3]).std().item(), rel=0.1)


def test_file_of_the_same_classes_keeps_its_head(state_file):
    trained, path = state_file()

    network = torchvision_model("shufflenet_v2_x0_5", num_classes=12, weights=path)

    assert torch.equal(network.eval()(IMAGES), trained(IMAGES))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("shufflenet_v2_x0_5", {}),
        ("squeezenet1_1", {}),
        ("mnasnet0_5", {}),
        ("densenet121", {}),
        pytest.param("swin_t", {}, marks=pytest.mark.slow),
        pytest.param("vit_b_32", {"image_size": 64}, marks=pytest.mark.slow),
    ],
)
def test_file_of_other_classes_gets_a_fresh_head_and_keeps_the_rest(state_file, name, arguments):
    trained, path = state_file(name, **arguments)

    network = torchvision_model(name, num_classes=7, weights=path, **arguments).eval()

    assert network(IMAGES).shape == (2, 7)
    _, head = first_and_last_layer(network)
    expected = trained.state_dict()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, expected[k])}
    assert changed == {
        k for k, v in network.named_parameters() if v is head.weight or v is head.bias
    }
    assert head.weight.std() > 0


def test_grey_images_get_the_responses_they_had_as_colour_images(state_file):
    trained, path = state_file()
    grey = IMAGES[:, :1]

    network = torchvision_model("shufflenet_v2_x0_5", 12, in_channels=1, weights=path).eval()

    torch.testing.assert_close(network(grey), trained(grey.expand(-1, 3, -1, -1)))


def test_two_colour_images_at_once_get_the_responses_of_their_mean(state_file):
    trained, path = state_file()

    network = torchvision_model("shufflenet_v2_x0_5", 12, in_channels=6, weights=path).eval()

    pairs = torch.cat([IMAGES, IMAGES.flip(3)], dim=1)
    torch.testing.assert_close(network(pairs), trained((IMAGES + IMAGES.flip(3)) / 2))


def test_file_of_a_grey_network_is_read_too(tmp_path):
    trained = torchvision_model("shufflenet_v2_x0_5", num_classes=12, in_channels=1).eval()
    path = tmp_path / "grey.pt"
    torch.save(trained.state_dict(), path)

    same = torchvision_model("shufflenet_v2_x0_5", 12, in_channels=1, weights=str(path)).eval()
    colour = torchvision_model("shufflenet_v2_x0_5", 12, in_channels=3, weights=str(path)).eval()

    grey = IMAGES[:, :1]
    assert torch.equal(same(grey), trained(grey))
    torch.testing.assert_close(colour(grey.expand(-1, 3, -1, -1)), trained(grey))


def test_file_older_than_the_counters_of_batch_normalisation_is_read_too(tmp_path):
    trained = models.shufflenet_v2_x0_5(num_classes=12).eval()
    path = tmp_path / "old.pth"
    state = {k: v for k, v in trained.state_dict().items() if "num_batches_tracked" not in k}
    torch.save(state, path)

    network = torchvision_model("shufflenet_v2_x0_5", num_classes=12, weights=str(path)).eval()

    assert torch.equal(network(IMAGES), trained(IMAGES))


def test_safetensors_file_is_read_too(state_file, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    trained, _ = state_file()
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(trained.state_dict(), path)

    network = torchvision_model("shufflenet_v2_x0_5", num_classes=12, weights=str(path)).eval()

    assert torch.equal(network(IMAGES), trained(IMAGES))


@pytest.mark.parametrize(
    "spelling",
    ["DEFAULT", "imagenet1k_v1", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"],
)
def test_torchvision_s_weights_come_from_its_cache(tmp_path, monkeypatch, spelling):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    pretrained = models.shufflenet_v2_x0_5(num_classes=1000).eval()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    file = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(pretrained.state_dict(), cache / file)

    full = torchvision_model("shufflenet_v2_x0_5", 1000, weights=spelling).eval()
    small = torchvision_model("shufflenet_v2_x0_5", 7, in_channels=1, weights=spelling).eval()

    assert torch.equal(full(IMAGES), pretrained(IMAGES))
    assert small(IMAGES[:, :1]).shape == (2, 7)
    assert torch.equal(small.conv5[0].weight, pretrained.conv5[0].weight)


def test_failed_download_says_where_the_file_belongs(tmp_path, monkeypatch):
    def no_internet(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_internet)

    with pytest.raises(
        FileNotFoundError, match=r"resnet18-f37072fd.pth' could not be .*hub/checkp"
    ):
        torchvision_model("resnet18", 7, weights="IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet19", ", did you mean .*resnet18"),
        ("fcn_resnet50", ", did you mean .*resnet50"),  # a segmentation network
        ("xyz", "; it has alexnet, "),
    ],
)
def test_unknown_network_is_refused_with_near_names(name, hint):
    with pytest.raises(ValueError, match=f"no classifier '{name}'{hint}"):
        torchvision_model(name, num_classes=7)


@pytest.mark.parametrize("name", ["state_dict", "model", "model_state_dict"])
def test_a_state_dict_is_found_in_what_a_training_script_has_saved(name, tmp_path):
    trained = models.shufflenet_v2_x0_5(num_classes=7).eval()
    state = {f"module.{key}": value for key, value in trained.state_dict().items()}  # of DDP
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, name: state}, tmp_path / "script.pt")

    network = torchvision_model("shufflenet_v2_x0_5", 7, weights=str(tmp_path / "script.pt"))

    assert torch.equal(network.eval()(IMAGES), trained(IMAGES))


@pytest.mark.parametrize("weights", ["IMAGENET", "ResNet50_Weights.DEFAULT", "weights.ckpt"])
def test_unknown_weights_are_refused_with_those_that_exist(weights):
    with pytest.raises(
        ValueError, match=rf"resnet18 has no weights '{weights}', only IMAGENET1K_V1"
    ):
        torchvision_model("resnet18", 7, weights=weights)


def test_weights_without_a_classifier_are_not_offered():
    with pytest.raises(
        ValueError, match="no weights 'IMAGENET1K_FEATURES', only IMAGENET1K_V1, DEF"
    ):
        torchvision_model("vgg16", 7, weights="IMAGENET1K_FEATURES")


def test_network_that_rescales_colours_itself_refuses_other_channels():
    with pytest.raises(ValueError, match="it takes 3 channels, not 1"):
        torchvision_model("googlenet", 7, in_channels=1, transform_input=True)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file '.*nothing\.pt'"):
        torchvision_model("resnet18", 7, weights=str(tmp_path / "nothing.pt"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"PK\x03\x04 cut off"])
def test_damaged_file_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"'.*weights.*' is damaged or holds more than tensors"):
        torchvision_model("shufflenet_v2_x0_5", 7, weights=str(path))


def test_file_with_a_whole_network_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "network.pt")

    with pytest.raises(ValueError, match=r"network\.pt' is damaged or holds more than tensors"):
        torchvision_model("shufflenet_v2_x0_5", 7, weights=str(tmp_path / "network.pt"))


def test_file_with_something_else_than_a_state_dict_is_refused(tmp_path):
    torch.save({"epoch": 3, "state_dict": {"fc": [1.0]}}, tmp_path / "checkpoint.pt")

    with pytest.raises(ValueError, match=r"checkpoint\.pt' holds no state dict"):
        torchvision_model("shufflenet_v2_x0_5", 7, weights=str(tmp_path / "checkpoint.pt"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv5.0.weight"), r"it lacks 'conv5.0.weight' \(1 such"),
        (lambda state: [state.pop("fc.weight"), state.pop("fc.bias")], "it lacks 'fc.weight'"),
        (lambda state: state.update(extra=torch.zeros(1)), "it also has 'extra'"),
        (lambda state: state.update({"conv5.0.weight": torch.zeros(3)}), "mismatch for conv5.0.w"),
        (lambda state: state.update({"conv1.0.weight": torch.zeros(3)}), "mismatch for conv1.0.w"),
        (lambda state: state.update({"fc.weight": torch.tensor(3.0)}), "mismatch for fc.w"),
        (lambda state: state.clear(), "it lacks 'conv1.0.weight'"),
    ],
)
def test_file_that_does_not_fit_is_refused_with_its_first_key(state_file, change, message):
    trained, path = state_file()
    state = trained.state_dict()
    change(state)
    torch.save(state, path)

    with pytest.raises(ValueError, match=rf"shufflenet_v2_x0_5\.pth' .*{message}"):
        torchvision_model("shufflenet_v2_x0_5", 7, weights=path)
