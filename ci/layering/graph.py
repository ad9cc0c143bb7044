"""Circles in a directed graph, which is a dictionary from each node to the nodes that it points to."""

import collections


def shortest_path(graph, start, end):
    """Returns the nodes of a shortest path from `start` to `end`, both included, or None."""
    before, queue = {start: None}, collections.deque([start])
    while queue:
        node = queue.popleft()
        if node == end:
            path = [node]
            while before[path[-1]] is not None:
                path.append(before[path[-1]])
            return path[::-1]
        for following in sorted(graph.get(node, ())):
            if following not in before:
                before[following] = node
                queue.append(following)
    return None


def circles(graph):
    """Returns a shortest circle through each edge that is part of one, each circle once, as a list of its nodes."""
    found = set()
    for start in graph:
        for end in graph[start]:
            path = shortest_path(graph, end, start)
            if path:
                first = path.index(min(path))
                found.add(tuple(path[first:] + path[:first]))
    return sorted(found, key=lambda circle: (len(circle), circle))
