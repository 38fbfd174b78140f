"""Stands for the few names that timm imports from torchvision, which fits one build of torch."""
