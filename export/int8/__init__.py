"""int8 quantization: a float32 graph becomes an int8 graph with explicit Q/DQ nodes for one backend.

The modules in the order of the data:

layers    which convolutions of a graph may become int8
ranges    calibration: values of each tensor on images, and the range that quantizes it with the least error
quantize  quantized weights, the plan of a whole network, and the graph with QuantizeLinear and DequantizeLinear
trials    what an int8 graph loses against the float32 graph: poses and keypoint AP
search    which layers must stay float32 so that the loss keeps within a budget
build     all steps in order, the split of the images, and the report of the search
"""
