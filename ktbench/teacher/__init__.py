"""Sources of a teacher's outputs, all alike to the training loop, and the store of teachers."""

from ktbench.teacher.build import build_source
from ktbench.teacher.live import Live
from ktbench.teacher.sampled import Sampled
from ktbench.teacher.store import TeacherStore

__all__ = ["Live", "Sampled", "TeacherStore", "build_source"]
