"""How to read every figure: a line or two under each in the report, and docs/report.md."""

READING = {
    "samples": "Check that they look as you expect: the right way up, in the right colours and"
    " classes, what matters brighter than what does not (drawn digits: ink bright on dark). What is"
    " wrong here is wrong everywhere.",
    "history": "The step line is the best so far. If it is still falling at the right edge, more"
    " trials pay; if it has been flat for half of them, they do not.",
    "intermediate": "Complete curves that still fall at their right end want more epochs a trial."
    " Rings and crosses should lie above the black line at the same epoch: where many lie near it,"
    " the first rung is too early to tell (begin search.rungs later, or raise min_epochs).",
    "importance": "Spend trials on the long bars and fix the short ones. Grey bars are not to be"
    " trusted: too few trials, or no hyperparameter matters.",
    "slices": "Look where the lowest dots are. A cloud that still falls towards an edge wants a"
    " wider range there; a flat cloud says that this one hardly matters.",
    "parallel": "Follow the dark lines: where they run together, that value matters; where they"
    " spread over the whole axis, it does not. Pale lines paused at a rung or, dashed, were pruned:"
    " their NELBO is that of the epoch at which they stopped.",
    "pareto": "Left: few nats in the latent code; low: good reconstructions. A model on a lower"
    " dashed line has the lower NELBO; the bend of the front is where a nat of rate starts to buy"
    " less than a nat of distortion.",
    "training_curves": "Train and validation should fall together. Validation that rises while"
    " train falls is overfitting; both still falling at the end is too short a training. KL"
    " near 0 throughout is a collapsed posterior.",
    "candidates": "Left, lines of one colour that lie further apart than the colours do: seeds"
    " matter more than the setting. Right, an interval wholly right of 0 is truly worse.",
    "units": "Dimensions right of the drop, or below the dashed line, are idle: latent_dim could be"
    " lower. All of them busy: it could be higher.",
    "reconstructions": "Compare each column from top to bottom: what is blurred or missing below is"
    " what the code does not carry. Another object than the original is worse than blur.",
    "prior_samples": "They should look like data. Good reconstructions beside bad samples say that"
    " the codes of images do not fill the prior.",
    "uncertainty": "Bright outlines are usual; bright areas inside an object are details that the"
    " code leaves to chance. The numbers are squared pixel values.",
    "latent_scatter": "Clusters by class say that the code knows the class without being told."
    " Do not read distances or gaps off t-SNE and UMAP.",
    "manifold": "Neighbours should change smoothly, and every tile look like data. Broken tiles at"
    " the rim of the left panel lie where images hardly ever are; on the right they are rare.",
    "interpolation": "Every step should look like an image of its own kind. A sudden jump or ghost"
    " of both ends is a hole between them.",
    "traversal": "Each row moves one dimension alone. A row that changes nothing is idle; one that"
    " changes a single property has found a factor of the data.",
}
