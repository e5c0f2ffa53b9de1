#!/usr/bin/perl
# Peer on Mojolicious (Perl), in both roles.
use Mojo::Base -strict, -signatures;
use Mojo::IOLoop;
use Mojo::Server::Daemon;
use Mojo::UserAgent;
use Mojo::WebSocket qw(WS_CONTINUATION WS_PING WS_PONG WS_TEXT);
use Mojo::Util qw(decode encode);
use Mojolicious;

$| = 1;

# Send each message back and obey the commands until the connection ends.
sub handle ($tx) {
    $tx->max_websocket_size(1 << 30);
    # The events "text" and "frame" have bytes. The event "message" has characters, but decodes
    # with a codec of Perl that rejects noncharacters, such as U+10FFFF.
    $tx->on(text => sub ($tx, $bytes) { reply($tx, $bytes) });
    $tx->on(binary => sub ($tx, $bytes) { $tx->send({binary => $bytes}) });
    $tx->on(frame => sub ($tx, $frame) {
        $tx->send({text => "pong $frame->[5]"}) if $frame->[4] == WS_PONG;
    });
    $tx->on(finish => sub ($tx, $code, $reason = undef) {
        say "closed $code ", encode('UTF-8', $reason // '');
    });
}

sub reply ($tx, $message) {
    my ($command, $rest) = split / /, $message, 2;
    $command //= '';
    $rest    //= '';
    if ($command eq '!protocol') {
        $tx->send($tx->protocol // '');
    } elsif ($command eq '!compressed') {
        $tx->send($tx->compressed ? 'yes' : 'no');
    } elsif ($command eq '!fragments') {
        my $third = int(length($rest) / 3);
        $tx->send([0, 0, 0, 0, WS_TEXT, substr $rest, 0, $third]);
        $tx->send([0, 0, 0, 0, WS_CONTINUATION, substr $rest, $third, $third]);
        $tx->send([1, 0, 0, 0, WS_CONTINUATION, substr $rest, 2 * $third]);
    } elsif ($command eq '!ping') {
        $tx->send([1, 0, 0, 0, WS_PING, $rest]);
    } elsif ($command eq '!close') {
        my ($code, $reason) = split / /, $rest, 2;
        $tx->finish($code, decode('UTF-8', $reason // ''));
    } else {
        $tx->send({text => $message});
    }
}

sub serve ($port, $certificate = undef, $key = undef) {
    my $app = Mojolicious->new;
    $app->log->level('fatal');
    $app->routes->websocket('/*any' => {any => ''} => sub ($c) {
        $c->tx->with_compression;
        $c->tx->with_protocols('coffee');
        $c->inactivity_timeout(0);
        handle($c->tx);
        $c->rendered(101);
    });
    my $url = $certificate ? "https://127.0.0.1:$port?cert=$certificate&key=$key"
        : "http://127.0.0.1:$port";
    my $daemon = Mojo::Server::Daemon->new(app => $app, listen => [$url], silent => 1);
    $daemon->start;
    say 'ready';
    Mojo::IOLoop->start;
}

sub open_connection ($url, $authority = undef) {
    my $agent = Mojo::UserAgent->new(inactivity_timeout => 0);
    $agent->ca($authority) if $authority;
    # Without the header, the library offers no compression.
    my $headers = {'Sec-WebSocket-Extensions' => 'permessage-deflate'};
    $agent->websocket($url => $headers => ['tea', 'coffee'] => sub ($agent, $tx) {
        die 'connect: ', $tx->res->error ? $tx->res->error->{message} : $tx->res->code, "\n"
            unless $tx->is_websocket;
        handle($tx);
        # The event comes before the library has written its Close frame.
        $tx->on(finish => sub { Mojo::IOLoop->timer(0.2 => sub { Mojo::IOLoop->stop }) });
    });
    Mojo::IOLoop->start;
}

my ($role, @arguments) = @ARGV;
if    ($role eq 'server') { serve(@arguments) }
elsif ($role eq 'client') { open_connection(@arguments) }
else                      { say Mojolicious->VERSION }
