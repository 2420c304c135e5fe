"""Labels and images: COCO and YOLO files, synthetic scenes, augmentation, training batches, image sets."""
