"""Weights that timm would download: said at once where there is no network, since timm tries for a minute."""

import ssl
import urllib.error
import urllib.request
from typing import Any

from matchcut.errors import ModelError

SECONDS = 5.0
"""That the hub is given to answer."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm looks for on the hub, in this order."""
FORMS = "timm's, as .safetensors or as a state dict in .pth or .bin"
GIVE_A_FILE = f"give a file of them with --weights FILE (weights=FILE in Python): {FORMS}"


def where_from(name: str) -> dict[str, Any]:
    """Arguments of `timm.create_model` for the weights of a model: none where the hub answers, so that timm downloads
    them; else the file that an earlier download left.

    Raises:
        ModelError: the hub does not answer, and there is no such file.
    """
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or config.file or answers(constants.ENDPOINT):
        return {}
    for file in (config.hf_hub_filename,) if config.hf_hub_filename else FILES:
        found = try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return {"pretrained_cfg_overlay": {"file": found}}
    raise ModelError(
        f"{name}: its weights are not on this machine, and {constants.ENDPOINT} does not answer; {GIVE_A_FILE}"
    )


def answers(address: str) -> bool:
    """Whether a server answers, through the proxy where one is set: with anything, also that it does not know us."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # it is there; whom the hub's own library trusts, it knows
    except OSError:
        return False
    return True
