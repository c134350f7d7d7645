# Commands in a machine, from outside, over a network that nobody cuts.
#   exec.pl serve ADDRESS PORT             in the machine: for each connection one command
#   exec.pl call ADDRESS PORT COMMAND..    outside, in the network: like running it here, exit code and all
# Caller: length of the command as text and a newline, the words each ended by NUL, then its standard input.
# Answer: frames of type (o output, e errors, x exit code as text), length (4 bytes, big endian), content.
use strict;
use warnings;
use IO::Socket::INET;
use POSIX ':sys_wait_h';

my ($role, $address, $port, @command) = @ARGV;

sub put {
  my ($to, $bytes) = @_;
  while (length $bytes) {
    my $n = syswrite($to, $bytes) or return 0;
    substr($bytes, 0, $n, '');
  }
  return 1;
}

sub take {
  my ($from, $wanted) = @_;
  my $bytes = '';
  while (length $bytes < $wanted) {
    sysread($from, $bytes, $wanted - length $bytes, length $bytes) or return undef;
  }
  return $bytes;
}

sub run_for {
  my ($caller) = @_;
  my ($length, $byte) = ('');
  while (defined($byte = take($caller, 1)) and $byte ne "\n") { $length .= $byte }
  my @words = split /\0/, take($caller, $length) // return, -1;
  pop @words;
  pipe(my $in_r, my $in_w);
  pipe(my $out_r, my $out_w);
  pipe(my $err_r, my $err_w);
  my $child = fork();
  if ($child == 0) {
    setpgrp;
    open STDIN, '<&', $in_r;
    open STDOUT, '>&', $out_w;
    open STDERR, '>&', $err_w;
    close $_ for $in_r, $in_w, $out_r, $out_w, $err_r, $err_w, $caller;
    chdir '/';
    %ENV = (PATH => '/usr/sbin:/usr/bin:/sbin:/bin', HOME => '/root', LANG => 'C.UTF-8', TERM => 'dumb');
    exec { $words[0] } @words or do { print STDERR "$words[0]: $!\n"; POSIX::_exit(127) };
  }
  close $_ for $in_r, $out_w, $err_w;
  my $feeder = fork();
  if ($feeder == 0) {
    close $_ for $out_r, $err_r;
    my $bytes;
    while (sysread($caller, $bytes, 65536)) { put($in_w, $bytes) or last }
    POSIX::_exit(0);
  }
  close $in_w;
  my %types = (fileno $out_r, ['o', $out_r], fileno $err_r, ['e', $err_r]);
  my $heard = 1;
  while (%types and $heard) {
    my $ready = '';
    vec($ready, $_, 1) = 1 for keys %types;
    next if select($ready, undef, undef, undef) < 0;
    for my $fd (grep { vec($ready, $_, 1) } keys %types) {
      my ($type, $from) = @{$types{$fd}};
      my $bytes;
      if (sysread($from, $bytes, 65536)) { $heard &&= put($caller, $type . pack('N', length $bytes) . $bytes) }
      else { delete $types{$fd} }
    }
  }
  kill 'KILL', -$child unless $heard;
  waitpid $child, 0;
  my $code = $? & 127 ? 128 + ($? & 127) : $? >> 8;
  kill 'KILL', $feeder;
  put($caller, 'x' . pack('N', length $code) . $code);
}

$SIG{PIPE} = 'IGNORE';
if ($role eq 'serve') {
  my $server = IO::Socket::INET->new(LocalAddr => $address, LocalPort => $port, Listen => 64, ReuseAddr => 1) or die "listen: $@";
  $SIG{CHLD} = sub { 1 while waitpid(-1, WNOHANG) > 0 };
  while (1) {
    my $caller = $server->accept or next;
    if (fork() == 0) { $SIG{CHLD} = 'DEFAULT'; close $server; run_for($caller); POSIX::_exit(0) }
    close $caller;
  }
}

my $server = IO::Socket::INET->new(PeerAddr => $address, PeerPort => $port, Timeout => 10) or die "no answer of $address: $@\n";
# A machine whose power is cut says no farewell: given up after 30 s without a sign of life of its kernel.
setsockopt $server, SOL_SOCKET, SO_KEEPALIVE, 1;
my ($tcp, %keep) = (6, 4 => 5, 5 => 5, 6 => 5, 18 => 30_000);
setsockopt $server, $tcp, $_, $keep{$_} for keys %keep;
my $text = join '', map { "$_\0" } @command;
put($server, length($text) . "\n" . $text);
my $feeder = fork();
if ($feeder == 0) {
  my $bytes;
  while (sysread(STDIN, $bytes, 65536)) { put($server, $bytes) or last }
  shutdown $server, 1;
  POSIX::_exit(0);
}
my $code = 255;
while (defined(my $head = take($server, 5))) {
  my ($type, $length) = unpack 'aN', $head;
  my $bytes = take($server, $length) // last;
  if ($type eq 'o') { put(\*STDOUT, $bytes) }
  elsif ($type eq 'e') { put(\*STDERR, $bytes) }
  else { $code = $bytes; last }
}
kill 'KILL', $feeder;
print STDERR "$address fell silent\n" if $code == 255;
exit $code;
