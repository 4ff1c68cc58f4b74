// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"tagger.dev/tagger/pkg/apiserver/certificate"
)

const (
	// tokenBytes is the entropy of a token.
	tokenBytes = 32
	// maxTokenFileBytes bounds the token's file, which a person may have
	// written.
	maxTokenFileBytes = 4 << 10
	// minTokenLength is where a token that a person has written is refused, in
	// characters.
	minTokenLength = 16
	// kubeconfigName names the cluster, the user and the context.
	kubeconfigName = "tagger"
)

// Token returns the administrator's bearer token, which is made at the first
// call and kept. Whoever has it may do everything.
func (d *DataDir) Token() (string, error) {
	data, err := readFile(d.file(tokenFile), maxTokenFileBytes)
	if errors.Is(err, fs.ErrNotExist) {
		random := make([]byte, tokenBytes)
		_, _ = rand.Read(random) // documented never to fail
		token := hex.EncodeToString(random)
		return token, d.write(tokenFile, []byte(token+"\n"), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if len(token) < minTokenLength || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s holds no token of at least %d printable characters: delete it for a new one", d.file(tokenFile), minTokenLength)
	}
	return token, nil
}

// WriteKubeconfig writes the administrator's kubeconfig: for the server at the
// URL server, verified by authority, with token, in the namespace default.
func (d *DataDir) WriteKubeconfig(server string, authority *certificate.Authority, token string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters[kubeconfigName] = &clientcmdapi.Cluster{
		Server:                   server,
		CertificateAuthorityData: authority.CertificatePEM(),
	}
	config.AuthInfos[kubeconfigName] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts[kubeconfigName] = &clientcmdapi.Context{
		Cluster:   kubeconfigName,
		AuthInfo:  kubeconfigName,
		Namespace: "default",
	}
	config.CurrentContext = kubeconfigName
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return d.write(kubeconfigFile, data, 0o600)
}
