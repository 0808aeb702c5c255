"""A song through the VQ-VAE and back, level by level: audio, spectrograms, figures and a page to compare them on."""
