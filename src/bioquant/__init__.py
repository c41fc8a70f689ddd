"""bioquant: which language model, at which precision, prompted how, for biomedical text on the GPU you own."""

import logging

UNHEEDED = {
    "torchao": "Failed to load",  # kernels for other GPUs and other Pythons, which it tries all
    "torch.utils._pytree": "%s is an Enum subclass",  # torchao's own use of torch
}
"""What libraries say as soon as transformers imports them, and nobody can act on: by logger, its beginning."""

for _name, _beginning in UNHEEDED.items():
    logging.getLogger(_name).addFilter(lambda record, said=_beginning: not str(record.msg).startswith(said))
