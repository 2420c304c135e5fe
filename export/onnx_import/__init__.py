"""Third-party ONNX files of pose networks as sources of an export.

onnx_file reads and checks a file, layouts recognizes what its outputs mean, wrap puts it between the contract's inputs
and outputs, source joins them.
"""
