"""What the paper does not have: other forms of distillation, stored targets as a teacher, networks of regions."""
