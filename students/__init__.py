"""Network architectures, one family per file; a teacher is drawn from here too."""

from ktbench.students._contract import Features as Features
from ktbench.students._contract import StagedNetwork as StagedNetwork
from ktbench.students._contract import Student as Student
from ktbench.students._contract import TeacherName as TeacherName
from ktbench.students._contract import scaled as scaled
