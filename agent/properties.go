// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/holdfast-ha/holdfast/agent/agentpb"
)

const (
	propertiesFile = "agent.properties"
	hostsKey       = "hosts"
	checkKey       = "host.lb.check.interval" // seconds
	maxWorkers     = 256                      // on one list
)

// properties are the lines of a file of key=value pairs; lines that begin with '#' or '!'
// are comments. Lines that nobody sets are kept as they are.
type properties struct {
	lines []string
	at    map[string]int // line of each key
}

// parseProperties names the file and the line of whatever it does not understand.
func parseProperties(name string, content []byte) (*properties, error) {
	p := &properties{at: map[string]int{}}
	if len(content) == 0 {
		return p, nil
	}
	for i, line := range strings.Split(strings.TrimSuffix(string(content), "\n"), "\n") {
		line = strings.TrimRight(line, "\r")
		p.lines = append(p.lines, line)
		if t := strings.TrimSpace(line); t == "" || t[0] == '#' || t[0] == '!' {
			continue
		}
		key, _, found := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		switch before, twice := p.at[key]; {
		case strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }):
			return nil, fmt.Errorf("%s:%d: line has a control character", name, i+1)
		case !found || key == "" || strings.ContainsFunc(key, unicode.IsSpace):
			return nil, fmt.Errorf("%s:%d: %q is not key=value", name, i+1, line)
		case twice:
			return nil, fmt.Errorf("%s:%d: key %q is on line %d already", name, i+1, key, before+1)
		}
		p.at[key] = i
	}
	return p, nil
}

// get returns the value of a key, without the blanks around it.
func (p *properties) get(key string) (string, bool) {
	i, found := p.at[key]
	if !found {
		return "", false
	}
	_, value, _ := strings.Cut(p.lines[i], "=")
	return strings.TrimSpace(value), true
}

// set gives a key a value that has no line breaks.
func (p *properties) set(key, value string) {
	i, found := p.at[key]
	if !found {
		i = len(p.lines)
		p.at[key] = i
		p.lines = append(p.lines, "")
	}
	p.lines[i] = key + "=" + value
}

func (p *properties) bytes() []byte {
	if len(p.lines) == 0 {
		return nil
	}
	return []byte(strings.Join(p.lines, "\n") + "\n")
}

// workerSet is a list of workers as it was sent: addresses, the preferred one first, how
// they were sorted, and how often to look whether the link is to the first of them. Never
// changed in place.
type workerSet struct {
	addresses []string
	algorithm string
	check     time.Duration // 0: never
}

func (w workerSet) equal(o workerSet) bool {
	return slices.Equal(w.addresses, o.addresses) && w.algorithm == o.algorithm && w.check == o.check
}

var algorithmPart = regexp.MustCompile(`^[a-z]{0,32}$`)

// usable names what makes a list unusable.
func (w workerSet) usable() error {
	if len(w.addresses) == 0 || len(w.addresses) > maxWorkers {
		return fmt.Errorf("%d workers: want 1 to %d", len(w.addresses), maxWorkers)
	}
	for _, address := range w.addresses {
		if _, err := splitAddress(address); err != nil {
			return err
		}
	}
	if !algorithmPart.MatchString(w.algorithm) {
		return fmt.Errorf("algorithm %q: want up to 32 small letters", w.algorithm)
	}
	if w.check < 0 || w.check > 24*time.Hour {
		return fmt.Errorf("check interval %v: want 0s to 24h", w.check)
	}
	return nil
}

// parseHosts reads "a:1,b:2@ring" and "60".
func parseHosts(hosts, check string) (w workerSet, err error) {
	list, algorithm, _ := strings.Cut(hosts, "@")
	for _, address := range strings.Split(list, ",") {
		w.addresses = append(w.addresses, strings.TrimSpace(address))
	}
	w.algorithm = strings.TrimSpace(algorithm)
	if check != "" {
		seconds, err := strconv.ParseFloat(check, 64)
		if err != nil || seconds < 0 || seconds > 86400 {
			return w, fmt.Errorf("%s: %q: want seconds from 0 to 86400", checkKey, check)
		}
		w.check = time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)
	}
	if err := w.usable(); err != nil {
		return w, fmt.Errorf("%s: %w", hostsKey, err)
	}
	return w, nil
}

// workerList is the ordered list of workers to dial: the one last sent, kept in the
// properties file, then those of the configuration that are not on it, so that a list
// that has gone stale never cuts the agent off.
type workerList struct {
	disk       *lane // nil: its writes may take as long as they do
	file       string
	configured []string

	mu      sync.Mutex
	sent    workerSet
	changed chan struct{} // closed at the next change
}

// loadWorkers reads the kept list.
func loadWorkers(dir string, configured []string) (*workerList, error) {
	l := &workerList{file: filepath.Join(dir, propertiesFile), configured: configured, changed: make(chan struct{})}
	p, err := l.read()
	if err != nil {
		return nil, err
	}
	if hosts, found := p.get(hostsKey); found && hosts != "" {
		check, _ := p.get(checkKey)
		if l.sent, err = parseHosts(hosts, check); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", l.file, p.at[hostsKey]+1, err)
		}
	}
	return l, nil
}

func (l *workerList) read() (*properties, error) {
	content, err := readState(l.file)
	if err != nil {
		return nil, fmt.Errorf("read properties: %w", err)
	}
	return parseProperties(l.file, content)
}

// addresses returns the workers to dial, in order, none twice.
func (l *workerList) addresses() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, a := range slices.Concat(l.sent.addresses, l.configured) {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// watch returns the list that was sent last and a channel that is closed when it changes.
func (l *workerList) watch() (workerSet, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent, l.changed
}

// wire is the list as a Hello tells it, nil while none was ever sent.
func (l *workerList) wire() *agentpb.List {
	w, _ := l.watch()
	if len(w.addresses) == 0 {
		return nil
	}
	out := &agentpb.List{Algorithm: w.algorithm, CheckIntervalMs: w.check.Milliseconds()}
	for _, address := range w.addresses {
		out.Workers = append(out.Workers, &agentpb.Worker{Address: address})
	}
	return out.Sealed()
}

// update takes over a list that a worker sent, nil being none, and keeps it in the file;
// other keys are left as they are. An error means that the list is used but not kept, or,
// when something on it is bad, not used.
func (l *workerList) update(sent *agentpb.List) error {
	if sent == nil {
		return nil
	}
	next := workerSet{algorithm: sent.GetAlgorithm(), check: time.Duration(sent.GetCheckIntervalMs()) * time.Millisecond}
	for _, w := range sent.GetWorkers() {
		next.addresses = append(next.addresses, w.GetAddress())
	}
	if err := next.usable(); err != nil {
		return fmt.Errorf("update worker list: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if next.equal(l.sent) {
		return nil
	}
	l.sent = next
	close(l.changed)
	l.changed = make(chan struct{})
	p, err := l.read() // anew: an operator may have edited other keys
	if err != nil {
		return fmt.Errorf("keep worker list: %w", err)
	}
	p.set(hostsKey, strings.Join(next.addresses, ",")+"@"+next.algorithm)
	p.set(checkKey, strconv.FormatFloat(next.check.Seconds(), 'f', -1, 64))
	if err := keepState(l.disk, l.file, p.bytes()); err != nil {
		return fmt.Errorf("keep worker list: %w", err)
	}
	return nil
}
