"""A regressor of Hugging Face, one label a sentence: how many words it has. The metric is Spearman's correlation."""

import torch
from _hf import fit_head, folder, sentences
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hwsmpq
from hwsmpq.model.load_hf import squared_error
from hwsmpq.model.metrics import Spearman

N_FIT, MEAN, SPREAD = 250, 11.6, 5.4


def task() -> hwsmpq.Task:
    texts, path = sentences(), folder()
    targets = (torch.tensor([float(len(text.split())) for text in texts]) - MEAN) / SPREAD
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    fitted, others = ({name: x[part] for name, x in tokens.items()} for part in (slice(N_FIT), slice(N_FIT, None)))
    model = fit_head(model, fitted, targets[:N_FIT, None])
    metric = Spearman(of=lambda outputs: outputs.logits)
    return hwsmpq.Task(model, fitted, (others, targets[N_FIT:]), metric=metric, loss=squared_error, name="hf_regressor")
