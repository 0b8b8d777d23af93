
# Not through the proxy: this machine, the metadata service, and the addresses and names inside of clusters. An address
# range counts for those who are called by their address, not for names. NO_PROXY_EXTRA=.corp.example adds to it.
NO_PROXY_LIST='@NO_PROXY@'
NO_PROXY_LIST=$NO_PROXY_LIST${NO_PROXY_EXTRA:+,$NO_PROXY_EXTRA}
