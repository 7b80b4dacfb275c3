// What a stock go-spiffe client sees of a Workload API: the one that SPIFFE_ENDPOINT_SOCKET names. One JSON line on standard output for each
// thing seen; an error is a line {"error": ...} and exit code 1.
package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

const usage = `usage: spiffe-go x509 | watch COUNT | bundles | jwt AUDIENCE [SPIFFE_ID] | validate AUDIENCE TOKEN | serve ADDRESS CLIENT_ID | dial ADDRESS SERVER_ID`

type object map[string]any

func say(what object) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		code := status.Code(err).String()
		if inner := errors.Unwrap(err); inner != nil {
			code = status.Code(inner).String()
		}
		say(object{"error": err.Error(), "code": code})
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	argument := func(at int) string {
		if at < len(args) {
			return args[at]
		}
		return ""
	}
	switch argument(0) {
	case "x509":
		return fetchX509(ctx)
	case "watch":
		return watch(ctx, argument(1))
	case "bundles":
		return bundles(ctx)
	case "jwt":
		return fetchJWT(ctx, argument(1), argument(2))
	case "validate":
		return validate(ctx, argument(1), argument(2))
	case "serve":
		return serve(ctx, argument(1), argument(2))
	case "dial":
		return dial(ctx, argument(1), argument(2))
	}
	return errors.New(usage)
}

// Without retries: what the first answer was.
func fetchX509(ctx context.Context) error {
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	x509Context, err := client.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	svid := x509Context.DefaultSVID()
	if _, _, err := svid.Marshal(); err != nil {
		return err
	}
	bundle, err := x509Context.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	for _, root := range bundle.X509Authorities() {
		roots.AddCert(root)
	}
	intermediates := x509.NewCertPool()
	for _, each := range svid.Certificates[1:] {
		intermediates.AddCert(each)
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	_, err = svid.Certificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: usages})
	if err != nil {
		return err
	}
	say(object{"id": svid.ID.String(), "serial": svid.Certificates[0].SerialNumber.String(), "roots": len(bundle.X509Authorities()), "trustDomains": x509Context.Bundles.Len()})
	return nil
}

type watcher struct {
	left int
	done chan error
}

func (w *watcher) OnX509ContextUpdate(x509Context *workloadapi.X509Context) {
	svid := x509Context.DefaultSVID()
	say(object{"id": svid.ID.String(), "serial": svid.Certificates[0].SerialNumber.String(), "trustDomains": x509Context.Bundles.Len()})
	if w.left--; w.left == 0 {
		w.done <- nil
	}
}

func (w *watcher) OnX509ContextWatchError(err error) {
	say(object{"watchError": status.Code(err).String()})
}

func watch(ctx context.Context, count string) error {
	w := &watcher{done: make(chan error, 1)}
	if _, err := fmt.Sscan(count, &w.left); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() { w.done <- workloadapi.WatchX509Context(watching, w) }()
	return <-w.done
}

func bundles(ctx context.Context) error {
	source, err := workloadapi.NewBundleSource(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	x509Set, err := client.FetchX509Bundles(ctx)
	if err != nil {
		return err
	}
	jwtSet, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	for _, bundle := range x509Set.Bundles() {
		trustDomain := bundle.TrustDomain()
		fromSource, err := source.GetBundleForTrustDomain(trustDomain)
		if err != nil {
			return err
		}
		jwtBundle, err := jwtSet.GetJWTBundleForTrustDomain(trustDomain)
		if err != nil {
			return err
		}
		same := len(fromSource.X509Authorities()) == len(bundle.X509Authorities())
		say(object{"trustDomain": trustDomain.Name(), "x509": len(bundle.X509Authorities()), "jwt": len(jwtBundle.JWTAuthorities()), "sourceAgrees": same})
	}
	return nil
}

func fetchJWT(ctx context.Context, audience, id string) error {
	params := jwtsvid.Params{Audience: audience}
	if id != "" {
		subject, err := spiffeid.FromString(id)
		if err != nil {
			return err
		}
		client, err := workloadapi.New(ctx)
		if err != nil {
			return err
		}
		defer client.Close()
		params.Subject = subject
		svid, err := client.FetchJWTSVID(ctx, params)
		if err != nil {
			return err
		}
		say(object{"id": svid.ID.String(), "token": svid.Marshal()})
		return nil
	}
	source, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	svid, err := source.FetchJWTSVID(ctx, params)
	if err != nil {
		return err
	}
	// Offline, with the key set that the same API gave.
	if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{audience}); err != nil {
		return err
	}
	say(object{"id": svid.ID.String(), "audience": svid.Audience, "expiry": svid.Expiry.Unix(), "token": svid.Marshal()})
	return nil
}

func validate(ctx context.Context, audience, token string) error {
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	svid, err := client.ValidateJWTSVID(ctx, token, audience)
	if err != nil {
		return err
	}
	say(object{"id": svid.ID.String(), "claims": svid.Claims})
	return nil
}

func serve(ctx context.Context, address, client string) error {
	clientID, err := spiffeid.FromString(client)
	if err != nil {
		return err
	}
	listener, err := spiffetls.Listen(ctx, "tcp", address, tlsconfig.AuthorizeID(clientID))
	if err != nil {
		return err
	}
	defer listener.Close()
	say(object{"listening": listener.Addr().String()})
	connection, err := listener.Accept()
	if err != nil {
		return err
	}
	defer connection.Close()
	_, err = io.Copy(connection, io.LimitReader(connection, 5))
	return err
}

func dial(ctx context.Context, address, server string) error {
	serverID, err := spiffeid.FromString(server)
	if err != nil {
		return err
	}
	connection, err := spiffetls.Dial(ctx, "tcp", address, tlsconfig.AuthorizeID(serverID))
	if err != nil {
		return err
	}
	defer connection.Close()
	if _, err := connection.Write([]byte("hello")); err != nil {
		return err
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(connection, answer); err != nil {
		return err
	}
	peer, err := spiffetls.PeerIDFromConn(connection)
	if err != nil {
		return err
	}
	say(object{"peer": peer.String(), "echo": string(answer)})
	return nil
}
