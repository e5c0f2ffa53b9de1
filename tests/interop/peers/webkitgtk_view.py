"""A window of WebKitGTK, for the Python of Debian: `webkitgtk_view.py [URL AUTHORITY]`.

Without arguments it prints the version.
"""

import sys

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("WebKit2", "4.1")
from gi.repository import Gtk, WebKit2  # noqa: E402

if not sys.argv[1:]:
    version = WebKit2.get_major_version, WebKit2.get_minor_version, WebKit2.get_micro_version
    print(".".join(str(part()) for part in version))
    sys.exit()

page, authority = sys.argv[1:]
context = WebKit2.WebContext.new_ephemeral()
manager = context.get_website_data_manager()
manager.set_network_proxy_settings(WebKit2.NetworkProxyMode.NO_PROXY, None)
if authority:
    manager.set_tls_errors_policy(WebKit2.TLSErrorsPolicy.IGNORE)
view = WebKit2.WebView.new_with_context(context)
window = Gtk.Window()
window.add(view)
window.show_all()
view.load_uri(page)
Gtk.main()
