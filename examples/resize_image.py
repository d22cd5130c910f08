"""A step type of one's own.

thaiyyal-node start --load examples.resize_image
thaiyyal-node run examples/resize_image.json
"""

from typing import Any

from thaiyyal import StepContext, step_type


@step_type("resize_image", effect="write")
def resize_image(image: dict[str, Any], width: int = 640, *, ctx: StepContext) -> dict[str, Any]:
    """A node `{"type": "resize_image", "data": {"width": 320}}` runs this in a runner process."""
    height = round(image["height"] * width / image["width"])
    name, _, ending = image["path"].rpartition(".")
    ctx.log("resizing", path=image["path"], width=width, key=ctx.idempotency_key)
    return {"path": f"{name}-{width}.{ending}", "width": width, "height": height}
