"""mobilenetv3: the options that the contract tests try."""

from __future__ import annotations

from typing import Any

from search_spaces.mobilenetv3 import scaled

TINY_MOBILENET = {
    "in_channels": 2,
    "classes": 3,
    "resolutions": [6, 5],
    "kernels": [3, 5],
    "expansions": [2, 1],
    "depths": [2, 1],
    "stem_width": 8,
    "stem_stride": 1,
    "first_width": 8,
    "stage_widths": [8, 16],
    "stage_strides": [1, 2],
    "stage_se": [False, True],
    "stage_activations": ["relu", "h_swish"],
    "final_width": 16,
    "feature_width": 24,
}

DEFAULT = True
VARIANTS: dict[str, dict[str, Any]] = {
    "digits": scaled((1, 8, 8), 10),
    "row": scaled((1, 8, 8), 10) | {"identity": "row"},
    "tiny": TINY_MOBILENET,
    "tiny-row": TINY_MOBILENET
    | {"depths": [1, 2], "stage_widths": [8], "stage_strides": [2]}
    | {"stage_se": [True], "stage_activations": ["relu"], "identity": "row"},
}
PINNED = {
    "default": (
        "a9894b75a2afa4f4052fee91d4d68770",
        "9db4ffb74589389f3bc032ddba55d6fe",
        "ff640721e6da502de6e67886494dea83",
    ),
    "tiny": (
        "c331f7a63c3bf104fc30e028f818d732",
        "b8868ed74ea3844fcd8452e22584927f",
        "9f3e8fba4bac937063bf3992881503b4",
    ),
    "tiny-row": (
        "43588269d5b57ca201c3067eab5dd194",
        "5f0804812425bf3b7a1b4586d461070a",
        "87b4fec381a8756c178fea5fa19a87fe",
    ),
}
