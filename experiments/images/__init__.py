"""What experiments on images share: data, training, features, quality, likelihood, pictures."""
