"""TransportNet: appearance matched to motion by optimal transport, with no prompt (Zhang et al., ICCV 2021)."""

from matchcut.models.transport_net.network import (
    FORMS,
    Decoder,
    Matching,
    PlacedSinkhorn,
    TransportNet,
    TransportNetForm,
    TransportNetSettings,
    build,
    build_transport_net,
    place_code,
)

__all__ = [
    "FORMS",
    "Decoder",
    "Matching",
    "PlacedSinkhorn",
    "TransportNet",
    "TransportNetForm",
    "TransportNetSettings",
    "build",
    "build_transport_net",
    "place_code",
]
