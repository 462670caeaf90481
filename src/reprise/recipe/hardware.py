"""Settings of the machine that the plan assumes, and the peak speed and memory of known GPUs."""

from typing import Annotated

from pydantic import Field

from reprise.recipe.fields import Count, Settings

PEAK_BF16_TFLOPS = {
    "A10": 125.0,  # NVIDIA A10 data sheet
    "A10G": 70.0,  # as given by AWS for G5; NVIDIA has no data sheet for it, and some tables have the A10's 125
    "A100": 312.0,  # NVIDIA A100 data sheet
    "H20": 148.0,  # as given by vendors; NVIDIA has no public data sheet for it
    "H100": 989.4,  # NVIDIA H100 data sheet, SXM
    "H100PCIe": 756.5,  # the same
    "H100NVL": 835.5,  # the same
    "H800": 989.4,  # like H100 SXM; its links are slower
    "H800PCIe": 756.5,
    "H200": 989.4,  # NVIDIA H200 data sheet, SXM
    "H200NVL": 835.5,  # the same
    "B200": 2250.0,  # NVIDIA DGX B200 data sheet, an eighth
    "L4": 121.0,  # NVIDIA L4 data sheet, half of the sparse figure
    "L40": 181.05,  # NVIDIA L40 data sheet
    "L40S": 362.0,  # NVIDIA L40S data sheet
    "RTX3090": 71.0,  # NVIDIA Ampere GA102 white paper, float32 accumulation
    "RTX4090": 165.2,  # NVIDIA Ada white paper, float32 accumulation
    "RTX5090": 209.5,  # a quarter of the 838 (float16, sparse) of NVIDIA's RTX Blackwell white paper
    "MI300X": 1307.4,  # AMD Instinct MI300X data sheet
}
"""Dense bf16 peak in TFLOP/s, from the vendor's documents: half of the figure for sparse matrices."""

MEMORY_GB = {
    "A10": 24.0, "A10G": 24.0, "A100": 80.0, "H20": 96.0, "H100": 80.0, "H100PCIe": 80.0, "H100NVL": 94.0, "H800": 80.0,
    "H800PCIe": 80.0, "H200": 141.0, "H200NVL": 141.0, "B200": 180.0, "L4": 24.0, "L40": 48.0, "L40S": 48.0,
    "RTX3090": 24.0, "RTX4090": 24.0, "RTX5090": 32.0, "MI300X": 192.0,
}  # fmt: skip
"""Memory in the same documents, in GB; an A100 may also have 40 GB."""


def peak_bf16_tflops(device_name: str) -> float | None:
    """Peak in TFLOP/s of a GPU by its device name, such as `NVIDIA H100 80GB HBM3`; None if it is not known."""
    squeezed = device_name.replace(" ", "")
    names = sorted(PEAK_BF16_TFLOPS, key=len, reverse=True)  # an L40S is not an L4
    return next((PEAK_BF16_TFLOPS[name] for name in names if name in squeezed), None)


PUBLISHED_UTILISATION = "torchtitan: 33 to 39 % for Llama 3.1 8B on 8 and 128 H100, bf16"
"""Source of the default of `utilisation`: benchmarks/llama3_h100_202412_torchtitan.md of pytorch/torchtitan."""


class Hardware(Settings):
    """The machines for the estimate of `reprise plan`, and the GPU for MFU."""

    gpu: str = "H100"
    """GPU for which the plan is estimated."""
    gpus: Count = 0
    """GPUs that train together, for the plan; 0: one, or as many as the run has processes."""
    memory_gb: Annotated[float, Field(ge=0.0)] = 0.0
    """Memory per GPU in 10^9 bytes; 0: that of the named GPU."""
    cpu_cores: Count = 0
    """Cores of all nodes that prepare the text, for the plan; 0: those of the machine that makes it."""
    text_gb: Annotated[float, Field(ge=0.0)] = 0.0
    """Text in 10^9 bytes of UTF-8, for estimates of disk and time; 0: by the sizes of the local input files."""
    parameters: Count | None = None
    """Parameters of the model, for the plan if its configuration cannot be read."""
    utilisation: Annotated[float, Field(gt=0.0, le=1.0)] = 0.36
    """Share of the peak that training reaches (MFU); by default the middle of torchtitan's published range."""
    price_per_hour: Annotated[float, Field(ge=0.0)] = 0.0
    """Price per hour of one training process (one GPU), in any currency, for the cost in the report; 0: not shown."""
    watts: Annotated[float, Field(ge=0.0)] = 0.0
    """Power of one training process in watts, including its share of the machine, for the energy in the model card; 0:
    not shown."""
