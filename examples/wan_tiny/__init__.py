"""A tiny text-to-video pipeline of Wan2.2's shape, trained from nothing on a made-up world of moving shapes."""
