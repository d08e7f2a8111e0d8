"""Running a trained network on images of any kind and size."""
