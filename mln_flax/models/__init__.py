"""Networks: each takes (image, branch, train) and returns logits and moments."""
