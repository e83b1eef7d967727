"""Models: backbones, and what carries masks with them."""
