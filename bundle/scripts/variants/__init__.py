"""What the paper does not have: other forms of distillation, teachers from elsewhere, networks of regions."""
