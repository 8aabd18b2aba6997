"""The paper: network, fusion, distillation, losses, terms, confidence; and other forms of distillation."""
