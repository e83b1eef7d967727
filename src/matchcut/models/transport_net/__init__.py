"""TransportNet: appearance matched to motion by optimal transport, with no prompt (Zhang et al., ICCV 2021)."""

from matchcut.models.transport_net.network import (
    ARCHITECTURES,
    Decoder,
    Matching,
    PlacedSinkhorn,
    TransportNet,
    TransportNetArchitecture,
    TransportNetSettings,
    build,
    build_transport_net,
    place_code,
)

__all__ = [
    "ARCHITECTURES",
    "Decoder",
    "Matching",
    "PlacedSinkhorn",
    "TransportNet",
    "TransportNetArchitecture",
    "TransportNetSettings",
    "build",
    "build_transport_net",
    "place_code",
]
