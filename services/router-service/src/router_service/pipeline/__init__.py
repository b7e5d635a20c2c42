"""Handle one request, from its features to its decision record. Independent of servers, sockets and other
requests.
"""
