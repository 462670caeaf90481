"""What the plan assumes of a machine."""

from typing import Annotated

from pydantic import Field

from reprise.recipe.fields import Count, Settings

PEAK_BF16_TFLOPS = {"A100": 312.0, "H100": 989.4, "H200": 989.4, "B200": 2250.0, "L40S": 362.0, "RTX4090": 165.2}
"""Dense bf16 peak in TFLOP/s, from the vendor's data sheets."""


def peak_bf16_tflops(device_name: str) -> float | None:
    """Peak of the GPU that calls itself so, such as `NVIDIA H100 80GB HBM3`; None where it is not known."""
    squeezed = device_name.replace(" ", "")
    return next((peak for name, peak in PEAK_BF16_TFLOPS.items() if name in squeezed), None)


class Hardware(Settings):
    """For the estimate of `reprise plan` and for MFU."""

    gpu: str = "H100"
    """Named GPU of the estimate."""
    parameters: Count | None = None
    """Parameters of the model, for the plan where its configuration is not at hand."""
    utilisation: Annotated[float, Field(gt=0.0, le=1.0)] = 0.4
    """Share of the peak that training reaches (MFU)."""
    price_per_hour: Annotated[float, Field(ge=0.0)] = 0.0
    """Price of an hour of one training process (one GPU), in any currency, for the cost in the report; 0: not told."""
