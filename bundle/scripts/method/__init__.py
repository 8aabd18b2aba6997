"""The paper: network, fusion, distillation, losses, terms and confidence."""
