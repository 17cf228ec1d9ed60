"""Fashion-MNIST, split among parties: the data, the job files, the plain baseline and the picture of the curves."""
