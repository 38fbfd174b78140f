"""Network architectures, one family per file; teachers are built from the same catalogue."""

from ktbench.students._contract import Features as Features
from ktbench.students._contract import GlobalMean as GlobalMean
from ktbench.students._contract import StagedNetwork as StagedNetwork
from ktbench.students._contract import Student as Student
from ktbench.students._contract import TeacherName as TeacherName
from ktbench.students._contract import scaled as scaled
