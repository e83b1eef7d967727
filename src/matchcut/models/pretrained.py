"""Weights that timm would download: said at once where there is no network, since timm tries for a minute.

timm and the hub's library are loaded where they are used, as in `matchcut.models.backbones`.
"""

import ssl
import urllib.error
import urllib.request
from typing import Any

from matchcut.errors import ModelError

SECONDS = 5.0
"""That the hub is given to answer."""
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
    if config is None or not config.hf_hub_id or config.file:
        return {}
    if not constants.HF_HUB_OFFLINE and answers(constants.ENDPOINT):
        return {}
    repository, _, revision = config.hf_hub_id.partition("@")
    file = config.hf_hub_filename or "model.safetensors"
    found = try_to_load_from_cache(repository, file, revision=revision or None)
    if isinstance(found, str) and found.endswith(".safetensors"):  # others timm may unpickle
        return {"pretrained_cfg_overlay": {"file": found}}
    raise ModelError(
        f"{name}: its weights are not on this machine, and {constants.ENDPOINT} does not answer; {GIVE_A_FILE}"
    )


def answers(address: str) -> bool:
    """Whether a server answers, through the proxy where one is set: with anything, also that it does not know us."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # it is there; whom the hub's own library trusts, it knows
    except OSError:
        return False
    return True
