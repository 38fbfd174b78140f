"""Knowledge-transfer techniques, one per file.

`OneTerm` is the base of a method that adds one term to the cross-entropy, `Distillation` of any
other that reads a teacher; `TransferMethod` is the contract itself.
"""

from ktbench.transfer_methods._common import Distillation as Distillation
from ktbench.transfer_methods._common import OneTerm as OneTerm
from ktbench.transfer_methods._common import View as View
from ktbench.transfer_methods._common import Weights as Weights
from ktbench.transfer_methods._contract import ALL as ALL
from ktbench.transfer_methods._contract import Batch as Batch
from ktbench.transfer_methods._contract import Features as Features
from ktbench.transfer_methods._contract import Heads as Heads
from ktbench.transfer_methods._contract import Needs as Needs
from ktbench.transfer_methods._contract import Phase as Phase
from ktbench.transfer_methods._contract import Scale as Scale
from ktbench.transfer_methods._contract import Scope as Scope
from ktbench.transfer_methods._contract import Setting as Setting
from ktbench.transfer_methods._contract import Shapes as Shapes
from ktbench.transfer_methods._contract import TransferMethod as TransferMethod
from ktbench.transfer_methods._contract import Update as Update
from ktbench.transfer_methods._contract import batch_generator as batch_generator
