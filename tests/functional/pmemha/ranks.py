# SPDX-License-Identifier: GPL-2.0-or-later
"""How well one list of figures orders what another one counts"""


def ranks(values):
    """1 for the smallest; equal ones share the mean of their ranks"""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    first = 0
    while first < len(order):
        end = first
        while end < len(order) and values[order[end]] == values[order[first]]:
            end += 1
        for i in order[first:end]:
            found[i] = (first + 1 + end) / 2
        first = end
    return found


def spearman(a, b):
    """Spearman's rank correlation, with ties; 0 where one is all the same"""
    assert len(a) == len(b)
    x, y = ranks(a), ranks(b)
    mean = (len(a) + 1) / 2
    xy = sum((i - mean) * (j - mean) for i, j in zip(x, y))
    xx = sum((i - mean) ** 2 for i in x)
    yy = sum((j - mean) ** 2 for j in y)
    return xy / (xx * yy) ** .5 if xx and yy else 0.0


def largest(values, part):
    """
    Of each value, which part of it is among the largest ones, @part of all: 1
    or 0, and less where equal ones share the places that are left.
    """
    places = round(len(values) * part)
    order = sorted(values, reverse=True)
    edge = order[places - 1]
    above = sum(v > edge for v in values)
    share = (places - above) / order.count(edge)
    return [1.0 if v > edge else share if v == edge else 0.0 for v in values]


def overlap(a, b, part):
    """
    Share of the largest of @b that is among the largest of @a.  Which of equal
    ones count is as if drawn, so that figures that are all the same have @part.
    """
    x, y = largest(a, part), largest(b, part)
    return sum(i * j for i, j in zip(x, y)) / sum(y)
