// SPDX-License-Identifier: Apache-2.0

package leases

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	defaultDialTimeout = 5 * time.Second
	readTimeout        = 5 * time.Second // one read or page
	pageSize           = 5000            // leases.md §5
	maxTxnOps          = 128             // etcd's max-txn-ops, left at its default
)

// Config says how to reach etcd.
type Config struct {
	Endpoints   []string      // all members, "https://host:2379"; one scheme for all
	TLS         *tls.Config   // nil only for http:// endpoints
	Logger      *slog.Logger  // nil discards
	DialTimeout time.Duration // until the first answer; 0 means 5 s
}

// Client is a connection to one etcd cluster. It is safe for concurrent use; the caller
// of Dial closes it, after everything made from it has returned.
type Client struct {
	log *slog.Logger
	// Three connections, so that a flood of watch events or writes never delays a renewal.
	lease, watch, data *clientv3.Client
	history            *history
	writes             worstOf // how long transactions took
	refusal            refusal // the last word about certificates or rights
	keeper             keeper  // what rewritten records had besides
}

// KV is one key as read. Value is shared: do not modify it.
type KV struct {
	Key            string
	Value          []byte
	CreateRevision int64
	ModRevision    int64
	Lease          bool  // bound to a lease
	LeaseID        int64 // which one; 0 for none
}

// Decode unmarshals the JSON value; the error names the key. ErrTooNew: a newer worker wrote
// it, and it is not read.
func (kv KV) Decode(v any) error {
	if err := checkVersion(kv.Key, kv.Value); err != nil {
		return err
	}
	if err := json.Unmarshal(kv.Value, v); err != nil {
		return fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	return nil
}

// CheckVersion is the part of Decode that costs nothing: ErrTooNew, or nil.
func (kv KV) CheckVersion() error { return checkVersion(kv.Key, kv.Value) }

func fromPB(kv *mvccpb.KeyValue) KV {
	return KV{
		Key: string(kv.Key), Value: kv.Value,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
		Lease: kv.Lease != 0, LeaseID: kv.Lease,
	}
}

// Dial connects and returns once a linearizable read was answered; the error says which
// endpoints were tried and what the last connection attempt met. ErrAway: nothing but time
// or a network may be missing, it is worth trying again.
func Dial(ctx context.Context, c Config) (*Client, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	out := &Client{log: log, history: newHistory(), keeper: keeper{kept: map[string]keptRecord{}}}
	zl := newZap(log)
	for _, p := range []**clientv3.Client{&out.lease, &out.watch, &out.data} {
		cli, err := clientv3.New(clientv3.Config{
			Endpoints:            c.Endpoints,
			TLS:                  c.TLS,
			DialTimeout:          c.DialTimeout,
			DialKeepAliveTime:    10 * time.Second,
			DialKeepAliveTimeout: 3 * time.Second,
			Logger:               zl,
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("set up etcd client for %s: %w", strings.Join(c.Endpoints, ", "), err), out.Close())
		}
		*p = cli
	}
	timeout := c.DialTimeout
	if timeout == 0 {
		timeout = defaultDialTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := out.firstContact(ctx); err != nil {
		err = fmt.Errorf("reach etcd at %s within %s: %w", strings.Join(c.Endpoints, ", "), timeout, err)
		if !strings.Contains(err.Error(), "tls: ") {
			err = fmt.Errorf("%w: %w", ErrAway, err)
		}
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

func (c Config) check() error {
	if len(c.Endpoints) == 0 {
		return errors.New("etcd endpoints: none given, want at least one such as https://etcd-1:2379")
	}
	want := "http://"
	if c.TLS != nil {
		want = "https://"
	}
	for _, e := range c.Endpoints {
		// The etcd client drops TLS without a word when the scheme says http.
		if !strings.HasPrefix(e, want) {
			return fmt.Errorf("etcd endpoint %q: want %shost:port (TLS configured: %t)", e, want, c.TLS != nil)
		}
	}
	if c.DialTimeout < 0 {
		return fmt.Errorf("etcd dial timeout %s: want 0 (default %s) or more", c.DialTimeout, defaultDialTimeout)
	}
	return nil
}

// firstContact asks below the etcd client's own retries, which hide why a connection
// cannot be made until only "deadline exceeded" is left.
func (c *Client) firstContact(ctx context.Context) error {
	kv := pb.NewKVClient(c.data.ActiveConnection())
	var last error
	for {
		resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(ConfigSlotsKey()), CountOnly: true})
		if err == nil {
			c.history.answered(resp.Header, 0)
			return nil
		}
		// A word about certificates is kept: a member that refuses ours may also just hang up.
		if last == nil || ctx.Err() == nil && !strings.Contains(last.Error(), "tls: ") {
			last = errors.New(rpctypes.ErrorDesc(err))
		}
		if wait(ctx, 50*time.Millisecond) != nil {
			return last
		}
	}
}

// Close ends all connections. Watches end, calls under way fail.
func (c *Client) Close() error {
	var errs []error
	for _, cli := range []*clientv3.Client{c.lease, c.watch, c.data} {
		if cli != nil {
			errs = append(errs, cli.Close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close etcd client: %w", err)
	}
	return nil
}

// ClusterID is etcd's own id of the cluster, as of its last answer.
func (c *Client) ClusterID() uint64 { return c.history.clusterID() }

// Get reads one key, linearizable. The error is ErrNotFound if it does not exist.
func (c *Client) Get(ctx context.Context, key string) (KV, error) {
	resp, err := c.read(ctx, key)
	if err != nil {
		return KV{}, fmt.Errorf("read %s: %w", key, err)
	}
	if len(resp.Kvs) == 0 {
		return KV{}, fmt.Errorf("read %s: %w", key, ErrNotFound)
	}
	return fromPB(resp.Kvs[0]), nil
}

// Count is how many keys are below a prefix.
func (c *Client) Count(ctx context.Context, prefix string) (int64, error) {
	resp, err := c.read(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return resp.Count, nil
}

// List reads all keys below prefix in key order, as they were at one revision not older
// than the call, which it returns.
func (c *Client) List(ctx context.Context, prefix string) ([]KV, int64, error) {
	const attempts = 3 // the revision may be compacted between two pages
	for n := 1; ; n++ {
		kvs, rev, err := c.listAt(ctx, prefix, 0)
		if err == nil {
			return kvs, rev, nil
		}
		if n == attempts || !errors.Is(err, rpctypes.ErrCompacted) {
			return nil, 0, fmt.Errorf("list %s: %w", prefix, err)
		}
	}
}

// Keys reads all keys below prefix in key order, without their values, as they were at one
// revision not older than the call.
func (c *Client) Keys(ctx context.Context, prefix string) ([]KV, error) {
	kvs, _, err := c.listAt(ctx, prefix, 0, clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("list keys of %s: %w", prefix, err)
	}
	return kvs, nil
}

// listAt lists as of rev; 0 means the current one.
func (c *Client) listAt(ctx context.Context, prefix string, rev int64, more ...clientv3.OpOption) ([]KV, int64, error) {
	var out []KV
	end := clientv3.GetPrefixRangeEnd(prefix)
	for start := prefix; ; {
		resp, err := c.read(ctx, start, append(more, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(rev))...)
		if err != nil {
			return nil, 0, err
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			out = append(out, fromPB(kv))
		}
		if !resp.More {
			return out, rev, nil
		}
		start = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// Revision returns etcd's current revision, linearizable: the cheapest proof that a
// quorum answers.
func (c *Client) Revision(ctx context.Context) (int64, error) {
	resp, err := c.read(ctx, ConfigSlotsKey(), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("read etcd's revision: %w", err)
	}
	return resp.Header.Revision, nil
}

// Fleet is what a fleet fixes once.
type Fleet struct {
	Slots      int   // number of slots
	Generation int64 // of the etcd data
}

const defaultSlots = 1024

type slotsRecord struct {
	V     int `json:"v"`
	Slots int `json:"slots"`
}

// GenerationRecord is the content of config/generation. It is raised by hand after etcd
// was restored from a backup, and never lowered (leases.md §2.10).
type GenerationRecord struct {
	V          int   `json:"v"`
	Generation int64 `json:"generation"`
}

// EnsureConfig creates config/slots (1024) and config/generation (1) where they do not
// exist, never changes them, and returns what etcd holds. Idempotent.
func (c *Client) EnsureConfig(ctx context.Context) (Fleet, error) {
	slots := slotsRecord{V: 1, Slots: defaultSlots}
	if err := c.createOnce(ctx, ConfigSlotsKey(), &slots); err != nil {
		return Fleet{}, err
	}
	gen := GenerationRecord{V: 1, Generation: 1}
	if err := c.createOnce(ctx, ConfigGenerationKey(), &gen); err != nil {
		return Fleet{}, err
	}
	if slots.Slots < 1 || slots.Slots > 9999 || gen.Generation < 1 {
		return Fleet{}, fmt.Errorf("fleet configuration in etcd: slots %d (want 1 to 9999), generation %d (want 1 or more)", slots.Slots, gen.Generation)
	}
	return Fleet{Slots: slots.Slots, Generation: gen.Generation}, nil
}

// createOnce puts *v if key is absent, else loads it into *v.
func (c *Client) createOnce(ctx context.Context, key string, v any) error {
	kv, err := c.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		_, err = c.Commit(ctx, Unowned().At(key, 0), Put(key, v))
		if err != nil && !errors.Is(err, ErrConflict) {
			return fmt.Errorf("create %s: %w", key, err)
		}
		kv, err = c.Get(ctx, key)
	}
	if err != nil {
		return err
	}
	return kv.Decode(v)
}

func (c *Client) read(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	before := c.history.revision()
	resp, err := c.data.Get(ctx, key, opts...)
	if err == nil {
		c.history.answered(resp.Header, before)
	}
	return resp, err
}

// redial makes connections that wait between attempts try at once. gRPC backs off up to
// two minutes; called every second or so, this keeps an etcd that returns from waiting.
func redial(clients ...*clientv3.Client) {
	for _, c := range clients {
		c.ActiveConnection().ResetConnectBackoff()
	}
}

// wait returns nil after d, or the context's cause.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
