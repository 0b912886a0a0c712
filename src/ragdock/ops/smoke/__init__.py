"""The smoke test of a deployment, over HTTP alone. Standard library only, like all it imports."""

from ragdock.ops.smoke.model import SKIPPABLE, STEPS, Report, Status, Step
from ragdock.ops.smoke.run import smoke

__all__ = ["SKIPPABLE", "STEPS", "Report", "Status", "Step", "smoke"]
