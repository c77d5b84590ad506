"""What was built from C#, and a desk for disks that are attached."""

from tests.attach.conftest import desk
from tests.dotnet.conftest import built

__all__ = ["built", "desk"]
