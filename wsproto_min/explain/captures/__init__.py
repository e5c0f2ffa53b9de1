"""Readers of capture files: pcap and pcapng with TCP, and HAR files of browsers."""
