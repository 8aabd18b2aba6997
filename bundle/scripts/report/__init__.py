"""What people look at: pages, pictures and curves."""
