"""The networks: blocks, backbones, necks and heads written out in ``forward``, and their sizes."""
