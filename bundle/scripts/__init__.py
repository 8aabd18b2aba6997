"""MTCM-KD: multi-teacher cross-modal knowledge distillation as a MONAI bundle."""
