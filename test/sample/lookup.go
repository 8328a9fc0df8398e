package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const resolvConf = "/etc/resolv.conf"

// lookup prints one address (or, for an address, one name) per line. Without flags it asks as any Go program does; -type and -tcp make it
// send the one query that they describe to the first server, and print the status if there is no data.
func lookup(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("lookup", flag.ContinueOnError)
	kind := flags.String("type", "", "ask for this record type only")
	tcp := flags.Bool("tcp", false, "ask over TCP")
	reverse := flags.Bool("reverse", false, "ask for the names of an address")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("usage: sample lookup [-type T] [-tcp] [-reverse] NAME|ADDR")
	}
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	name := flags.Arg(0)
	if *kind != "" || *tcp {
		return query(ctx, name, *kind, *tcp)
	}
	var resolver net.Resolver
	ask := resolver.LookupHost
	if _, err := netip.ParseAddr(name); err == nil || *reverse {
		ask = resolver.LookupAddr
	}
	found, err := ask(ctx, name)
	if err != nil {
		return err
	}
	_, err = fmt.Println(strings.Join(found, "\n"))
	return err
}

func query(ctx context.Context, name, kind string, tcp bool) error {
	if kind == "" {
		kind = "A"
	}
	qtype, ok := dns.StringToType[strings.ToUpper(kind)]
	if !ok {
		return fmt.Errorf("no record type %q", kind)
	}
	server, err := resolver()
	if err != nil {
		return err
	}
	if addr, err := dns.ReverseAddr(name); err == nil && qtype == dns.TypePTR {
		name = addr
	}
	client := dns.Client{Net: "udp"}
	if tcp {
		client.Net = "tcp"
	}
	answer, _, err := client.ExchangeContext(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype), server)
	if err != nil {
		return err
	}
	status := dns.RcodeToString[answer.Rcode]
	if answer.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("%s: %s", name, status)
	}
	if len(answer.Answer) == 0 {
		fmt.Println(status)
	}
	for _, record := range answer.Answer {
		fmt.Println(strings.TrimPrefix(record.String(), record.Header().String()))
	}
	return nil
}

// resolver is the address and port of the first server in /etc/resolv.conf.
func resolver() (string, error) {
	config, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil {
		return "", err
	}
	if len(config.Servers) == 0 {
		return "", fmt.Errorf("no server in %s", resolvConf)
	}
	return net.JoinHostPort(config.Servers[0], config.Port), nil
}
