"""Test material for any RFC 6455 parser, independent of this package's codec.

- `raw_frame`: frames with every field set by hand, valid or not.
- `violations`: the shortest input that breaks each rule of `wsproto_min.rules`.
- `strategies`: Hypothesis strategies for valid and damaged traffic. It needs the extra:
  `pip install 'wsproto-min[testing]'`.
"""
