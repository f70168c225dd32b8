"""A classifier of Hugging Face, on tokenized batches with labels: does a sentence name a person?"""

import re

import torch
from _hf import fit_head, folder, sentences
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, default_data_collator

import hwsmpq

PERSON, N_FIT = r"\b((wo)?m[ae]n|girl|boy|person|people)\b", 250


def task() -> hwsmpq.Task:
    texts, path = sentences(), folder()
    labels = torch.tensor([int(bool(re.search(PERSON, text.lower()))) for text in texts])
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    model = fit_head(model, {name: x[:N_FIT] for name, x in tokens.items()}, 20 * one_hot(labels[:N_FIT]).float())
    rows = [{name: x[i] for name, x in tokens.items()} | {"labels": labels[i]} for i in range(len(texts))]
    fitted, others = (DataLoader(part, 32, collate_fn=default_data_collator) for part in (rows[:N_FIT], rows[N_FIT:]))
    return hwsmpq.Task(model, fitted, others, name="hf_classifier")
