"""Backbones of several families, with random weights: grids, stages, folding, local files and refusals."""

import os
import pickle
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from matchcut.errors import ModelError
from matchcut.models.backbones import Backbone, _SameDepthwise, fold_batch_norms
from matchcut.models.pretrained import answers

FAMILIES = {
    "resnet18": 8,
    "tf_efficientnet_lite0": 8,
    "mobilenetv3_small_050": 8,
    "convnext_tiny": 8,
    "vit_tiny_patch16_224": 16,
    "vit_small_patch14_dinov2": 14,
    "vit_small_patch16_dinov3": 16,
}


def picture(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def shake(net: nn.Module) -> None:
    """Batch norms with statistics of their own; timm's fresh ones do nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low in ((module.running_mean, -0.3), (module.bias, -0.2)):
                    tensor.uniform_(low, -low, generator=generator)
                for tensor in (module.running_var, module.weight):
                    tensor.uniform_(0.5, 1.5, generator=generator)


# --- grids and stages


@pytest.mark.parametrize(("name", "stride"), [one for one in FAMILIES.items() if one[0] != "convnext_tiny"])
def test_the_grid_is_the_frame_by_the_stride_rounded_up(name, stride):
    backbone = Backbone(name, stages=(-1,)).eval()
    assert backbone.stride == stride
    for height, width in ((64, 96), (61, 83), (57, 66)):
        with torch.no_grad():
            (one,) = backbone(picture(height, width))
        assert one.shape[0] == 1 and one.shape[2:] == (-(-height // stride), -(-width // stride))
        assert one.isfinite().all()


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_stride_of_a_cnn_replaces_later_downsampling(stride):
    backbone = Backbone("resnet18", stages=(0, 1, 2, 3, 4), stride=stride).eval()
    with torch.no_grad():
        maps = backbone(picture(64, 96))
    assert [one.shape[1] for one in maps] == [64, 64, 128, 256, 512]
    assert [64 // one.shape[2] for one in maps] == [min(s, stride) for s in (2, 4, 8, 16, 32)]


def test_several_stages_are_those_asked_for_alone():
    for name in ("resnet18", "vit_tiny_patch16_224"):
        several = Backbone(name, stages=(1, 3)).eval()
        with torch.no_grad():
            both = several(picture(48, 64))
            for stage, expected in zip((1, 3), both, strict=True):
                single = Backbone(name, stages=(stage,)).eval()
                single.net.load_state_dict(several.net.state_dict())
                torch.testing.assert_close(single(picture(48, 64))[0], expected)


def test_negative_stages_count_from_the_last():
    assert Backbone("resnet18", stages=(-1, 1)).stages == (4, 1)
    assert Backbone("vit_tiny_patch16_224", stages=(-1, -12)).stages == (11, 0)


@pytest.mark.parametrize("stages", [(3, 3), (4, -1)])
def test_a_stage_asked_for_twice_is_refused_or_given_twice(stages):
    try:
        backbone = Backbone("resnet18", stages=stages).eval()
    except ModelError:
        return
    assert len(backbone(picture(32, 32))) == len(backbone.stages)


def test_items_of_a_batch_are_independent():
    for name in ("resnet18", "vit_tiny_patch16_224"):
        backbone = Backbone(name, stages=(2,)).eval()
        pictures = picture(40, 52, 2)
        with torch.no_grad():
            together = backbone(pictures)[0]
            apart = torch.cat([backbone(pictures[i : i + 1])[0] for i in range(2)])
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_images_are_normalised_as_the_weights_want():
    backbone = Backbone("resnet18", stages=(2,)).eval()
    config = backbone.net.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = backbone.net.forward_intermediates(
            (picture(64, 64) - mean) / std, indices=[2], intermediates_only=True
        )
        torch.testing.assert_close(backbone(picture(64, 64))[0], expected[0])


# --- folding of batch norms, and what else is made faster for inference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_nan_goes_through_a_folded_network(dtype):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU6(inplace=True), nn.Conv2d(4, 2, 1)).eval()
    fold_batch_norms(net)
    bits = torch.tensor([0x7FC0, -0x40, 0x7F80, -0x80], dtype=torch.int16)  # NaN, -NaN, infinity, -infinity
    values = bits.view(torch.bfloat16).to(dtype)
    activated = net[2](values.clone())
    assert activated.isnan().tolist() == [True, True, False, False] and activated[2:].tolist() == [6, 0]
    with torch.no_grad():
        assert net.to(dtype)(values[:2].reshape(2, 1, 1, 1).expand(2, 3, 1, 1)).isnan().all()


@pytest.mark.parametrize(
    "name",
    ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050", "regnety_002", "resnetv2_18", "convnext_atto"],
)
def test_folded_batch_norms_change_no_feature(name):
    torch.manual_seed(0)
    backbone = Backbone(name, stages=(1, 3))
    shake(backbone.net)
    backbone.eval()
    sizes = (61, 83), (64, 96), (48, 72), (66, 61)  # "same" padding depends on what is even
    with torch.no_grad():
        before = [one for size in sizes for one in backbone(picture(*size))]
        fold_batch_norms(backbone.net)
        after = [one for size in sizes for one in backbone(picture(*size))]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    if name in ("resnet18", "tf_efficientnet_lite0"):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    if name == "tf_efficientnet_lite0":
        assert sum(isinstance(module, _SameDepthwise) for module in backbone.modules()) > 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4)),
    ],
    ids=["activation between", "activation in place between"],
)
def test_a_batch_norm_that_cannot_be_folded_stays(make):
    net = make().eval()
    shake(net)
    image = picture(8, 8)
    with torch.no_grad():
        expected = net(image)
        fold_batch_norms(net)
        torch.testing.assert_close(net(image), expected)


# --- local weights


@pytest.mark.parametrize(("name", "suffix"), [("resnet18", "safetensors"), ("vit_tiny_patch16_224", "pth")])
def test_a_local_file_of_timms_own_weights(name, suffix, tmp_path):
    torch.manual_seed(5)
    original = timm.create_model(name, pretrained=False)  # with its classifier, as timm's files have
    shake(original)
    path = tmp_path / f"{name}.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(original.state_dict(), path)
    backbone = Backbone(name, stages=(1,), weights=str(path)).eval()
    image = picture(224, 224)
    with torch.no_grad():
        normal = (image - backbone.mean) / backbone.std
        expected = original.eval().forward_intermediates(
            normal, indices=[1], intermediates_only=True, norm=backbone.is_vit
        )
        torch.testing.assert_close(backbone(image)[0], expected[0], atol=1e-4, rtol=1e-4)


def wrong_files(tmp_path) -> dict[str, object]:
    """Files that are not resnet18's weights, by what is wrong with them."""
    good = timm.create_model("resnet18").state_dict()
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("shape", "part", "other", "bytes", "empty", "missing")}
    save_file({**good, "conv1.weight": torch.zeros(64, 3, 3, 3)}, paths["shape"])
    save_file({key: value for key, value in good.items() if "layer3" not in key}, paths["part"])
    save_file({"something.else": torch.zeros(3)}, paths["other"])
    paths["bytes"].write_bytes(b"not weights at all" * 40)
    paths["empty"].write_bytes(b"")
    paths |= {"bytes-pth": tmp_path / "bytes.pth", "empty-pth": tmp_path / "empty.pth", "folder": tmp_path}
    paths |= {"numbers": tmp_path / "numbers.pth", "list": tmp_path / "list.pth"}
    torch.save(dict.fromkeys([*good, 7], 1), paths["numbers"])
    torch.save([1, 2], paths["list"])
    paths["bytes-pth"].write_bytes(b"not weights at all" * 40)
    paths["empty-pth"].write_bytes(b"")
    return paths


@pytest.mark.parametrize(
    "what",
    ["shape", "part", "other", "bytes", "empty", "missing", "bytes-pth", "empty-pth", "folder", "numbers", "list"],
)
def test_a_file_that_does_not_hold_the_weights_is_refused(what, tmp_path):
    path = str(wrong_files(tmp_path)[what])
    with pytest.raises(ModelError) as caught:
        Backbone("resnet18", weights=path)
    message = str(caught.value)
    assert message.startswith("resnet18: ") and path in message and "\n" not in message


class _Harm:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr(timm.models.load_state_dict, "__defaults__", (True, "cpu", False))  # timm 1.0.15's own
    done = tmp_path / "done"
    pickle.loads(pickle.dumps(_Harm(str(done))))
    assert done.is_dir()  # it would do harm
    done.rmdir()
    torch.save({"conv1.weight": _Harm(str(done))}, tmp_path / "harm.pth")
    with pytest.raises(ModelError, match=r"is no file of weights .*never unpickled"):
        Backbone("resnet18", weights=str(tmp_path / "harm.pth"))
    assert not done.exists()


# --- refusals


def test_an_unknown_name_names_near_ones():
    with pytest.raises(ModelError, match=r"unknown backbone 'resnet81': timm has no such model; near: .*resnet18"):
        Backbone("resnet81")
    with pytest.raises(ModelError, match=r"near: .*vit_small_patch16_224"):
        Backbone("vit_smal_patch16_224.dino")
    with pytest.raises(ModelError, match=r"timm has no such model$"):
        Backbone("#?")


@pytest.mark.parametrize("stage", [5, -6, 99])
def test_an_unknown_stage_names_the_known_ones(stage):
    with pytest.raises(ModelError, match=f"resnet18: no stage {stage}; it has 5, -5 to 4"):
        Backbone("resnet18", stages=(1, stage))


def test_no_stage_is_refused():
    with pytest.raises(ModelError, match="stages: expected at least one, got none"):
        Backbone("resnet18", stages=())


def test_a_stride_it_cannot_have_is_refused():
    with pytest.raises(ModelError, match="resnet18: it cannot be used at stride 5"):
        Backbone("resnet18", stride=5)
    with pytest.raises(ModelError, match="swin_tiny_patch4_window7_224: it cannot be used at stride 8"):
        Backbone("swin_tiny_patch4_window7_224")


# --- no network


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's address and the folder of what was downloaded from it, the first a server that answers nothing."""
    from huggingface_hub import constants

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for name, value in (("ENDPOINT", address), ("HF_HUB_CACHE", str(tmp_path))):
        monkeypatch.setattr(constants, name, value)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return address, tmp_path


def test_weights_that_cannot_be_downloaded_are_said_at_once(hub):
    with pytest.raises(
        ModelError, match=rf"^resnet18: .*{hub[0]} does not answer.*--weights FILE.*\.safetensors.*\.pth"
    ):
        Backbone("resnet18", pretrained=True)


def test_weights_that_an_earlier_download_left_are_taken_without_a_network(hub):
    net = timm.create_model("resnet18", pretrained=False)
    folder = hub[1] / "models--timm--resnet18.a1_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(net.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    found = Backbone("resnet18", pretrained=True).net.state_dict()
    assert all(torch.equal(found[key], value) for key, value in net.state_dict().items() if not key.startswith("fc."))


def test_a_server_that_refuses_answers():
    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.handle_request, daemon=True).start()
        assert answers(f"http://127.0.0.1:{server.server_port}")
