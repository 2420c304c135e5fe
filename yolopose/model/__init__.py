"""The networks as PyTorch modules: blocks, backbones, necks, heads, and the configurations that build them.

To add a head: write a subclass of ``heads.base.Head`` in ``heads/``, name it in ``config.HEADS``, build it in
``sizes.build``.
"""
