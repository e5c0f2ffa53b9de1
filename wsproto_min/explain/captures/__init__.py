"""Readers of captures: pcap and pcapng with TCP, output of tshark, HAR files of browsers."""
